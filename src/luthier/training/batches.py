"""Tokenised rows, and the order in which they are trained on. No torch: plain integers.

The order is a pure function of (seed, epoch), and the rows of an optimiser step a pure function of that order, whatever
is packed with what. So a resume needs only the step, and packing changes speed, never what is learned.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from luthier.datasets.learning import positions
from luthier.modeling.types import Packed
from luthier.training.columns import Column


@dataclass(frozen=True)
class Row:
    """One example. `loss_at` are positions whose NEXT token carries loss, as in `modeling.types.Packed`."""

    ids: Sequence[int]
    loss_at: Sequence[int]
    weight: float = 1.0
    """What its loss tokens count beside those of other rows."""


def _integers() -> array[int]:
    return array("i")


def _floats() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Part:
    """Some rows on their way into `Rows`, as plain numbers: one process may make them, and another take them."""

    truncated: int = 0
    dropped: int = 0
    ids: array[int] = field(default_factory=_integers)
    loss_at: array[int] = field(default_factory=_integers)
    lengths: array[int] = field(default_factory=_integers)
    """Tokens of each row."""
    learned: array[int] = field(default_factory=_integers)
    """Loss tokens of each row."""
    weights: array[float] = field(default_factory=_floats)
    beside: list[Any] = field(default_factory=list[Any])
    """What a method keeps of its units beside their tokens."""

    def append(self, ids: list[int], loss_at: list[int], weight: float) -> None:
        """One more row."""
        self.ids.fromlist(ids)
        self.loss_at.fromlist(loss_at)
        self.lengths.append(len(ids))
        self.learned.append(len(loss_at))
        self.weights.append(weight)


class Rows:
    """Many rows, whose numbers lie on disk: what a data file holds is not held in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where the numbers lie; by default where temporary files do. Raises: OSError."""
        self.truncated = 0
        """Rows that were cut to the longest length."""
        self.dropped = 0
        """Rows that were left out because no token of theirs carries loss."""
        self.longest = 0
        """Tokens of the longest row."""
        self.longest_answer = 0
        """Loss tokens of the row with the most."""
        self._ids = Column("i", folder)
        self._loss_at = Column("i", folder)
        self._ends = Column("q", folder)
        self._loss_ends = Column("q", folder)
        self._weights = Column("d", folder)

    @classmethod
    def of(cls, columns: Sequence[Column[Any]], counts: Mapping[str, int]) -> Rows:
        """What `columns` and `counts` gave. They can only be read."""
        rows = cls.__new__(cls)
        rows._ids, rows._loss_at, rows._ends, rows._loss_ends, rows._weights = columns
        rows.truncated, rows.dropped = counts["truncated"], counts["dropped"]
        rows.longest, rows.longest_answer = counts["longest"], counts["longest_answer"]
        return rows

    @property
    def columns(self) -> Sequence[Column[Any]]:
        """All numbers."""
        return (self._ids, self._loss_at, self._ends, self._loss_ends, self._weights)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted while they were read."""
        return {name: getattr(self, name) for name in ("truncated", "dropped", "longest", "longest_answer")}

    def add(self, ids: Sequence[int], carries_loss: Sequence[bool], weight: float = 1.0) -> None:
        """Append a row, or count it as dropped. `carries_loss[t]` says whether token t itself is learned."""
        loss_at = positions(carries_loss)
        if not loss_at:
            self.dropped += 1
        else:
            self.append(Row(ids, loss_at, weight))

    def append(self, row: Row) -> None:
        """A row as it is."""
        part = Part()
        part.append(list(row.ids), list(row.loss_at), row.weight)
        self.extend(part)

    def extend(self, part: Part) -> None:
        """Rows behind those that are there, and what was counted of them."""
        self._ends.extend(islice(accumulate(part.lengths, initial=len(self._ids)), 1, None))
        self._loss_ends.extend(islice(accumulate(part.learned, initial=len(self._loss_at)), 1, None))
        self._ids.extend(part.ids)
        self._loss_at.extend(part.loss_at)
        self._weights.extend(part.weights)
        self.truncated += part.truncated
        self.dropped += part.dropped
        self.longest = max(self.longest, *part.lengths, 0)
        self.longest_answer = max(self.longest_answer, *part.learned, 0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        ids = self._ids.part(*_span(self._ends, index))
        return Row(ids, self._loss_at.part(*_span(self._loss_ends, index)), self._weights[index])

    def soon(self, indices: Iterable[int]) -> None:
        """These rows are wanted next: whatever of them lies on disk alone is read while something else is computed."""
        for index in indices:
            self._ids.soon(*_span(self._ends, index))
            self._loss_at.soon(*_span(self._loss_ends, index))

    def length(self, index: int) -> int:
        """Tokens of a row."""
        start, end = _span(self._ends, index)
        return end - start

    def learned(self, index: int) -> int:
        """Loss tokens of a row."""
        start, end = _span(self._loss_ends, index)
        return end - start

    def weight(self, index: int) -> float:
        return self._weights[index]

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def loss_tokens(self) -> int:
        return len(self._loss_at)


def _span(ends: Column[int], index: int) -> tuple[int, int]:
    return ends[index - 1] if index else 0, ends[index]


def order_of(seed: int, epoch: int, rows: int) -> array[int]:
    """The order of one epoch (counted from 0). A string seeds the same on every Python and machine.

    >>> list(order_of(42, 0, 5)) == list(order_of(42, 0, 5)), sorted(order_of(42, 1, 5))
    (True, [0, 1, 2, 3, 4])
    """
    order = array("q", range(rows))
    random.Random(f"luthier:{seed}:{epoch}").shuffle(order)
    return order


@dataclass
class Order:
    """Which rows each optimiser step sees. The last step of an epoch takes what is left, as transformers does."""

    seed: int
    rows: int
    rows_per_step: int
    _epoch: int = -1
    _order: array[int] = field(default_factory=lambda: array("q"))

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.rows_per_step)

    def of_step(self, step: int) -> list[int]:
        """Row numbers of the optimiser step after `step` others."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(self.seed, epoch, self.rows)
        return self._order[place * self.rows_per_step : (place + 1) * self.rows_per_step].tolist()


def pack(rows: Sequence[Row]) -> Packed:
    """Rows laid end to end.

    >>> packed = pack([Row([1, 2, 3], [1]), Row([4, 5], [0])])
    >>> packed.ids_T, packed.lengths, packed.loss_at_N
    ([1, 2, 3, 4, 5], [3, 2], [1, 3])
    """
    ids: list[int] = []
    loss_at: list[int] = []
    for row in rows:
        loss_at.extend(len(ids) + at for at in row.loss_at)
        ids.extend(row.ids)
    return Packed(ids_T=ids, lengths=[len(row.ids) for row in rows], loss_at_N=loss_at)
