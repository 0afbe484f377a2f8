"""What the methods share: what is measured of units once, loss tokens by the row they belong to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Measured:
    """Two numbers of each unit that was measured; a million units take 16 MB."""

    def __init__(self) -> None:
        self._values = array("d")

    def missing(self, numbers: Iterable[int]) -> Sequence[int]:
        """Those of these units that were not measured."""
        return array("q", (number for number in numbers if number not in self))

    def put(self, number: int, one: float, other: float) -> None:
        short = 2 * number + 2 - len(self._values)
        if short > 0:
            self._values.extend([math.nan] * short)
        self._values[2 * number], self._values[2 * number + 1] = one, other

    def __contains__(self, number: int) -> bool:
        return 2 * number < len(self._values) and not math.isnan(self._values[2 * number])

    def __getitem__(self, number: int) -> tuple[float, float]:
        return self._values[2 * number], self._values[2 * number + 1]


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
