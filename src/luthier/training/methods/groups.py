"""What the methods share: many rows at a time, and loss tokens by the row that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_ROWS_TOGETHER = 256
_T = TypeVar("_T")


def in_groups(rows: Iterable[_T]) -> Iterator[list[_T]]:
    """As many as are worth tokenising together."""
    waiting = iter(rows)
    while group := list(islice(waiting, _ROWS_TOGETHER)):
        yield group


def row_sums(logp_N: Tensor, counts: Sequence[int]) -> Tensor:
    """Sums over the loss tokens of each row. logp_N: shape (N,), rows in order; counts: R, adding up to N.

    >>> import torch
    >>> row_sums(torch.tensor([1.0, 2.0, 4.0]), [2, 1])
    tensor([3., 4.])
    """
    return logp_N.new_zeros(len(counts)).index_add(0, rows_of_tokens(logp_N, counts), logp_N)


def rows_of_tokens(like: Tensor, counts: Sequence[int]) -> Tensor:
    """Which row each loss token belongs to, shape (N,)."""
    counts_R = like.new_tensor(counts).long()
    return counts_R.new_tensor(range(len(counts))).repeat_interleave(counts_R)
