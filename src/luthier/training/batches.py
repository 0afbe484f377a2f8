"""Tokenised rows, and the order in which they are trained on. No torch: plain integers.

The order is a pure function of (seed, epoch), and the rows of an optimiser step a pure function of that order, whatever
is packed with what. So a resume needs only the step, and packing changes speed, never what is learned.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from luthier.modeling.types import Packed


@dataclass(frozen=True)
class Row:
    """One example. `loss_at` are positions whose NEXT token carries loss, as in `modeling.types.Packed`."""

    ids: Sequence[int]
    loss_at: Sequence[int]
    weight: float = 1.0
    """What its loss tokens count beside those of other rows."""


@dataclass
class Rows:
    """Many rows in two flat arrays: 4 bytes a token, not the 36 of a list of ints."""

    truncated: int = 0
    """Rows that were cut to the longest length."""
    dropped: int = 0
    """Rows that were left out because no token of theirs carries loss."""
    _ids: array[int] = field(default_factory=lambda: array("i"))
    _loss_at: array[int] = field(default_factory=lambda: array("i"))
    _ends: array[int] = field(default_factory=lambda: array("q", [0]))
    _loss_ends: array[int] = field(default_factory=lambda: array("q", [0]))
    _weights: array[float] = field(default_factory=lambda: array("d"))

    def add(self, ids: Sequence[int], carries_loss: Sequence[bool], weight: float = 1.0) -> None:
        """Append a row, or count it as dropped. `carries_loss[t]` says whether token t itself is learned."""
        # The first token has nothing before it that could predict it.
        loss_at = [at - 1 for at, carries in enumerate(carries_loss) if carries and at]
        if not loss_at:
            self.dropped += 1
        else:
            self.append(Row(ids, loss_at, weight))

    def append(self, row: Row) -> None:
        """A row as it is."""
        self._ids.extend(row.ids)
        self._loss_at.extend(row.loss_at)
        self._ends.append(len(self._ids))
        self._loss_ends.append(len(self._loss_at))
        self._weights.append(row.weight)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        ids = self._ids[self._ends[index] : self._ends[index + 1]]
        return Row(ids, self._loss_at[self._loss_ends[index] : self._loss_ends[index + 1]], self._weights[index])

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((end - start for start, end in pairwise(self._ends)), default=0)

    @property
    def loss_tokens(self) -> int:
        return len(self._loss_at)


def order_of(seed: int, epoch: int, rows: int) -> list[int]:
    """The order of one epoch (counted from 0). A string seeds the same on every Python and machine.

    >>> order_of(42, 0, 5) == order_of(42, 0, 5), sorted(order_of(42, 1, 5))
    (True, [0, 1, 2, 3, 4])
    """
    order = list(range(rows))
    random.Random(f"luthier:{seed}:{epoch}").shuffle(order)
    return order


@dataclass
class Order:
    """Which rows each optimiser step sees. The last step of an epoch takes what is left, as transformers does."""

    seed: int
    rows: int
    rows_per_step: int
    _epoch: int = -1
    _order: list[int] = field(default_factory=list[int])

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.rows_per_step)

    def of_step(self, step: int) -> list[int]:
        """Row numbers of the optimiser step after `step` others."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(self.seed, epoch, self.rows)
        return self._order[place * self.rows_per_step : (place + 1) * self.rows_per_step]


@dataclass(frozen=True)
class PassLimits:
    """How much goes through the model at once. Memory grows with it; what is learned does not change."""

    rows: int
    tokens: int
    """A row that is longer goes alone."""


def passes(rows: Sequence[Row], limits: PassLimits) -> Iterator[Packed]:
    """The rows, in their order, laid end to end in as few passes as the limits allow."""
    for group in grouped([[row] for row in rows], limits):
        yield pack([rows[place] for place in group])


def grouped(units: Sequence[Sequence[Row]], limits: PassLimits) -> Iterator[list[int]]:
    """Places of the units, in their order, in as few passes as the limits allow. The rows of a unit stay together.

    >>> list(grouped([[Row([1, 2], [0])]] * 3, PassLimits(rows=8, tokens=4)))
    [[0, 1], [2]]
    """
    group: list[int] = []
    tokens = 0
    for place, unit in enumerate(units):
        size = sum(len(row.ids) for row in unit)
        if group and (len(group) == limits.rows or tokens + size > limits.tokens):
            yield group
            group, tokens = [], 0
        group.append(place)
        tokens += size
    if group:
        yield group


def pack(rows: Sequence[Row]) -> Packed:
    """Rows laid end to end.

    >>> pack([Row([1, 2, 3], [1]), Row([4, 5], [0])])
    Packed(ids_T=[1, 2, 3, 4, 5], lengths=[3, 2], loss_at_N=[1, 3], temperature=1.0)
    """
    ids: list[int] = []
    loss_at: list[int] = []
    for row in rows:
        loss_at.extend(len(ids) + at for at in row.loss_at)
        ids.extend(row.ids)
    return Packed(ids_T=ids, lengths=[len(row.ids) for row in rows], loss_at_N=loss_at)


def loss_tokens(rows: Sequence[Row]) -> int:
    """How many tokens of these rows carry loss."""
    return sum(len(row.loss_at) for row in rows)
