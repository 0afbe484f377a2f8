"""Which rows go through a model together: the trainer does it, a preview shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Unit = TypeVar("Unit")

TOKENS_PER_PASS = 4096
"""The most of a pass on a CPU; a machine with little memory takes less, a GPU more."""
_MOST_ROWS = 16
_STEPS_AN_EPOCH = 32


@dataclass(frozen=True)
class PassLimits:
    """How much goes through the model at once. Memory grows with it; what is learned does not change."""

    rows: int
    tokens: int
    """A row that is longer goes alone."""


def grouped(units: Iterable[Unit], size: Callable[[Unit], int], limits: PassLimits) -> Iterator[list[Unit]]:
    """The units, in their order, in as few passes as the limits allow. size: tokens of a unit, which stays together.

    >>> list(grouped(["ab", "cd", "ef"], len, PassLimits(rows=8, tokens=4)))
    [['ab', 'cd'], ['ef']]
    """
    group: list[Unit] = []
    tokens = 0
    for unit in units:
        more = size(unit)
        if group and (len(group) == limits.rows or tokens + more > limits.tokens):
            yield group
            group, tokens = [], 0
        group.append(unit)
        tokens += more
    if group:
        yield group


def batch_size(rows: int) -> int:
    """A power of two that leaves an epoch at least 32 steps where the data allow it, and no more than 16.

    >>> [batch_size(rows) for rows in (1, 40, 500, 100_000)]
    [1, 1, 8, 16]
    """
    wanted = min(_MOST_ROWS, max(1, rows // _STEPS_AN_EPOCH))
    return 1 << (wanted.bit_length() - 1)
