"""Supervised fine-tuning: raise the probability of the answers that a person wrote.

Maximum likelihood over the tokens of the assistant's turns, end of turn included:
L = -sum_i w_i log p(token_i | all before it) / sum_i w_i, over the loss tokens of the WHOLE optimiser step, with w_i the weight
of the token's row (1 unless the data say otherwise). A mean of each pass's mean would weigh a token by how few others happened
to share its pass; see https://unsloth.ai/blog/gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from luthier.datasets.packing import PassLimits, grouped
from luthier.training.batches import Row, Rows, pack
from luthier.training.method import Batch, Engine, Method, Step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sft(Method):
    """A unit is a row."""

    one_right_answer = True

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        del engine
        rows = self.rows
        weight = sum(rows.weight(number) * rows.learned(number) for number in step.numbers)
        for numbers in grouped(step.numbers, rows.length, limits):
            part = [rows[number] for number in numbers]
            yield Batch(pack(part), partial(loss, weights=weights_of(part), weight_of_step=weight))


def weights_of(rows: Sequence[Row]) -> Sequence[float] | None:
    """Of each loss token of a pass; None where all count alike."""
    if all(row.weight == 1.0 for row in rows):
        return None
    return [row.weight for row in rows for _ in row.loss_at]


def loss(logp_N: Tensor, weights: Sequence[float] | None, weight_of_step: float) -> Tensor:
    """This pass's share, shape (), of the step's loss in nats a token; the shares of all passes add up to it.

    logp_N: natural-log probability of each loss token of the pass. weight_of_step: sum of the weights of all its tokens.

    >>> import torch
    >>> loss(torch.tensor([-1.0, -3.0]), None, weight_of_step=4).item()
    1.0
    """
    weighted_N = logp_N if weights is None else logp_N * logp_N.new_tensor(weights)
    return -weighted_N.sum() / weight_of_step
