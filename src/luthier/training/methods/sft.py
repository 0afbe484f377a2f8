"""Supervised fine-tuning: raise the probability of the answers that a person wrote.

Maximum likelihood over the tokens of the assistant's turns, end of turn included:
L = -1/n sum_i log p(token_i | all before it), with n the loss tokens of the WHOLE optimiser step. A mean of each pass's
mean would weigh a token by how few others happened to share its pass; see https://unsloth.ai/blog/gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from luthier.training.batches import PassLimits, Rows, loss_tokens, passes
from luthier.training.failures import AttemptFailed
from luthier.training.method import Batch, Engine, OnPass, mean_loss

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.datasets.formats import Example
    from luthier.datasets.rendering import Renderer

_ROWS_TOGETHER = 256


@dataclass(frozen=True)
class Sft:
    """A unit is a row."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, numbers: Sequence[int], limits: PassLimits) -> Iterator[Batch]:
        rows = [self.rows[number] for number in numbers]
        of_step = partial(loss, tokens_of_step=loss_tokens(rows))
        return (Batch(packed, of_step) for packed in passes(rows, limits))

    def metrics(self) -> Mapping[str, float]:
        return {}

    def validation_loss(self, engine: Engine, limits: PassLimits, on_pass: OnPass) -> float:
        return mean_loss(engine, self, limits, on_pass)


def rows_of(examples: Iterable[Example], renderer: Renderer, max_seq_len: int) -> Rows:
    """Every example as token ids and the positions that carry loss.

    Rows longer than `max_seq_len` are cut and counted; rows that then have no loss token are left out and counted.
    Raises: AttemptFailed (`bad_data`) when nothing is left to learn from.
    """
    rows = Rows()
    waiting = iter(examples)
    while group := list(islice(waiting, _ROWS_TOGETHER)):
        for rendered in renderer.render_batch(group, max_seq_len):
            rows.truncated += rendered.truncated
            rows.add(rendered.ids, rendered.loss)
    if not len(rows):
        raise AttemptFailed(
            "bad_data",
            f"None of the {rows.dropped} rows has a token to learn from ({rows.truncated} were cut at {max_seq_len} tokens).",
            "Give every row an assistant answer, and raise `train.max_seq_len` above the length of the prompts.",
        )
    return rows


def loss(logp_N: Tensor, tokens_of_step: int) -> Tensor:
    """This pass's share, shape (), of the step's loss in nats a token; the shares of all passes add up to it.

    logp_N: natural-log probability of each loss token of the pass. tokens_of_step: loss tokens of all its passes.

    >>> import torch
    >>> loss(torch.tensor([-1.0, -3.0]), tokens_of_step=4).item()
    1.0
    """
    return -logp_N.sum() / tokens_of_step
