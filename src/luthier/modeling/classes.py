"""A head of classes on a base: how likely each class is, from the hidden state of a text's last token.

As `AutoModelForSequenceClassification` does it: one linear layer without bias, `score`, after the final norm. The head is small
and always fp32 on the CPU, wherever the base is.

Shapes: N texts, C classes, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import Parameter

from luthier.modeling.types import Packed, TrainingEngine

_DEVIATION = 0.02
"""Of a fresh weight, as transformers begins."""


def new_head(classes: int, hidden: int, seed: int) -> Parameter:
    """A head (C, D) that has learned nothing; the same seed gives the same."""
    generator = torch.Generator().manual_seed(seed)
    return Parameter(_DEVIATION * torch.randn(classes, hidden, generator=generator))


def logits_of(hidden_ND: Tensor, head_CD: Tensor) -> Tensor:
    """(N, C), on the CPU; differentiable with respect to both.

    >>> logits_of(torch.ones(1, 2), torch.tensor([[1.0, 1.0], [0.0, 3.0]]))
    tensor([[2., 3.]])
    """
    return hidden_ND.cpu() @ head_CD.to(hidden_ND.dtype).t()


def last_tokens(rows: Sequence[Sequence[int]]) -> Packed:
    """A pack that asks for the hidden state of the last token of each row, of at least one token each.

    >>> last_tokens([[5, 6], [7]]).loss_at_N
    [1, 2]
    """
    ids = [token for row in rows for token in row]
    ends = [end - 1 for end in accumulate(map(len, rows))]
    return Packed(ids, [len(row) for row in rows], ends, wants="hidden")


@torch.no_grad()
def class_logits(engine: TrainingEngine, head_CD: Tensor, rows: Sequence[Sequence[int]], tokens_at_once: int) -> Tensor:
    """Of each row of token ids, shape (N, C), fp32. A row that is longer than `tokens_at_once` goes through alone."""
    parts = [logits_of(engine.hidden(last_tokens(part), training=False), head_CD) for part in _parts(rows, tokens_at_once)]
    return torch.cat(parts) if parts else torch.zeros(0, len(head_CD))


def _parts(rows: Sequence[Sequence[int]], tokens_at_once: int) -> Iterator[list[Sequence[int]]]:
    part: list[Sequence[int]] = []
    tokens = 0
    for row in rows:
        if part and tokens + len(row) > tokens_at_once:
            yield part
            part, tokens = [], 0
        part.append(row)
        tokens += len(row)
    if part:
        yield part
