"""Rows to look at: by chance, the longest, the shortest, those that were remarked. Only their own bytes are read."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Literal, NamedTuple

from luthier.datasets.keeping import PLACE
from luthier.datasets.strict_json import dump, parse

By = Literal["random", "longest", "shortest", "flagged"]


class Place(NamedTuple):
    """Where a row lies in the canonical rows."""

    line: int
    start: int
    size: int


class Index:
    """The index of a dataset's rows, in a seekable stream."""

    def __init__(self, stream: BinaryIO, index_bytes: int, rows_bytes: int) -> None:
        self._stream = stream
        self._count = index_bytes // PLACE.size
        self._end = rows_bytes

    def choose(self, by: By, count: int, seed: int, flagged: Iterable[int] = ()) -> list[Place]:
        """`count` places at most. By chance means: the same ones for the same seed."""
        if by == "random":
            chosen = random.Random(seed).sample(range(self._count), min(count, self._count))
            return [self._at(number) for number in sorted(chosen)]
        if by == "flagged":
            wanted = frozenset(flagged)
            return [place for place in self if place.line in wanted][:count]
        pick = heapq.nlargest if by == "longest" else heapq.nsmallest
        return pick(count, self, key=lambda place: place.size)

    def after(self, line: int, count: int) -> list[Place]:
        """`count` places at most, from this line on."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._at(middle).line < line else (low, middle)
        return [self._at(number) for number in range(low, min(low + count, self._count))]

    def __iter__(self) -> Iterator[Place]:
        self._stream.seek(0)
        before: tuple[int, int] | None = None
        while block := self._stream.read(PLACE.size * 4096):
            for line, start in PLACE.iter_unpack(block):
                if before is not None:
                    yield Place(*before, start - before[1])
                before = line, start
        if before is not None:
            yield Place(*before, self._end - before[1])

    def _at(self, number: int) -> Place:
        self._stream.seek(number * PLACE.size)
        found = self._stream.read(2 * PLACE.size)
        line, start = PLACE.unpack(found[: PLACE.size])
        end = PLACE.unpack(found[PLACE.size :])[1] if len(found) == 2 * PLACE.size else self._end
        return Place(line, start, end - start)


def read_bytes(rows: BinaryIO, places: Iterable[Place]) -> Iterator[tuple[int, bytes]]:
    """Rows as they are stored, each with its line."""
    for place in places:
        rows.seek(place.start)
        yield place.line, rows.read(place.size)


def read_row(rows: BinaryIO, place: Place, most_characters: int) -> dict[str, Any]:
    """One row as it is stored, with long texts cut. The bytes are the checker's own, not a stranger's."""
    rows.seek(place.start)
    value: dict[str, Any] = parse(place.line, rows.read(place.size))
    return value if place.size <= most_characters else _shortened(value, most_characters)


def _shortened(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most else value[:most] + f" [... {len(value) - most:,} more characters]"
    if isinstance(value, dict):
        return {name: _shortened(part, most) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list) and len(dump(value)) > most * 4:
        return [_shortened(part, most) for part in value[:100]]  # pyright: ignore[reportUnknownVariableType]
    return [_shortened(part, most) for part in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]
