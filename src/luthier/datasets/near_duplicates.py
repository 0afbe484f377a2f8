"""Rows that are nearly the same: MinHash over pairs of neighbouring words, then the exact share of pairs in common.

All of it works on the rows as they are stored, in bounded memory: 32 smallest hashes a row (one permutation, as many bins), four
of them a band; rows that share a band are compared. https://doi.org/10.1109/SEQUEN.1997.666900, https://arxiv.org/abs/1208.1259
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from luthier.datasets.crew import Crew
from luthier.datasets.keeping import places
from luthier.datasets.row_hashes import First

_BINS = 32
_BAND = 4
_ROW_BITS = 20
_HASH_MASK = (1 << (63 - _ROW_BITS)) - 1
_READ = 4000
"""Bytes of a row that are looked at; of longer ones as many from the start as from the end."""
_AT_ONCE = 2000
"""Rows that are sketched together."""
_LEAST_PAIRS = 8
"""Shorter rows are the same or they are not."""
_ALIKE = 0.8
_MOST_COMPARED = 200_000
_NEAREST = 4
"""A row is compared with so many before it in a band."""
_KEPT = 4 * _NEAREST
"""Rows whose pairs are kept: those before it come again with the next row."""


class NearDuplicates:
    """Looks through the stored rows once."""

    def __init__(self, most_rows: int, most_shown: int) -> None:
        self._most_rows = most_rows
        self.found = First(most_shown)
        """Lines of rows that are nearly the same as an earlier one, with that one's line."""
        self.looked_at = 0
        self.of = 0

    def look(self, rows: Path, index: Path, rows_kept: int, workers: int = 1) -> None:
        """Every row up to the limit; of more rows each n-th."""
        self.of = rows_kept
        every = max(1, -(-rows_kept // self._most_rows))
        sketches = Sketches()
        for part in _parts(partial(_sketched, rows, index, every), rows_kept, every, workers):
            sketches.add(part)
        self.looked_at = len(sketches.lines)
        with rows.open("rb") as file:
            self._compare(_Rows(file, sketches), sketches.bands)

    def _compare(self, rows: _Rows, bands: list[array[int]]) -> None:
        alike: dict[int, int] = {}
        # Rows of one template share most bands: each pair is looked at once, not in every band anew.
        different: set[int] = set()
        for band in bands:
            for earlier, later in _candidates(band):
                pair = earlier << _ROW_BITS | later
                if later in alike or pair in different or len(different) + len(alike) >= _MOST_COMPARED:
                    continue
                if rows.alike(earlier, later):
                    alike[later] = earlier
                else:
                    different.add(pair)
        for later, earlier in alike.items():
            self.found.add(rows.lines[later], rows.lines[earlier])


class Sketches:
    """Of rows one after another: their keys by band, with their number in the last bits, and where they lie."""

    def __init__(self) -> None:
        self.bands = [array("Q") for _ in range(_BINS // _BAND)]
        self.lines, self.starts = array("Q"), array("Q")

    def row(self, line: int, start: int, row: bytes) -> None:
        """The next one."""
        number = len(self.lines)
        self.lines.append(line)
        self.starts.append(start)
        pairs = pairs_of(row)
        if len(pairs) < _LEAST_PAIRS:
            return
        # The smallest hash of each bin: what comes later in this order stays.
        bins = {value % _BINS: value for value in sorted(pairs, reverse=True)}
        if len(bins) < _BINS:
            _fill(bins)
        for at, band in enumerate(self.bands):
            first = at * _BAND
            key = hash((bins[first], bins[first + 1], bins[first + 2], bins[first + 3]))
            band.append((key & _HASH_MASK) << _ROW_BITS | number)

    def add(self, other: Sketches) -> None:
        """The rows that follow."""
        number = len(self.lines)
        for band, more in zip(self.bands, other.bands, strict=True):
            band.extend(value + number for value in more)
        self.lines += other.lines
        self.starts += other.starts


def _sketched(rows: Path, index: Path, every: int, first: int) -> Sketches:
    """Some rows from `first` on, each n-th."""
    found = Sketches()
    with rows.open("rb") as file:
        some = islice(places(index, first), 0, _AT_ONCE * every, every)
        for line, start in some:
            file.seek(start)
            found.row(line, start, file.readline())
    return found


def _parts(work: Callable[[int], Sketches], rows: int, every: int, workers: int) -> Iterator[Sketches]:
    firsts = range(0, rows, _AT_ONCE * every)
    if workers == 1 or len(firsts) < 2 * workers:
        yield from map(work, firsts)
        return
    with Crew(lambda piece: (pickle.dumps(work(int(bytes(piece)))), b""), workers) as crew:
        for made in crew.map(str(first).encode() for first in firsts):
            yield pickle.loads(made)  # noqa: S301  # of our own fork


class _Rows:
    """Rows that are read again, to be compared."""

    def __init__(self, file: BinaryIO, sketches: Sketches) -> None:
        self._file = file
        self.lines, self._starts = sketches.lines, sketches.starts
        self._once_read = lru_cache(_KEPT)(self._read)

    def alike(self, one: int, other: int) -> bool:
        """Whether two rows share most of their pairs of words, and are not the very same (that is told as such)."""
        row, pairs = self._once_read(one)
        other_row, other_pairs = self._once_read(other)
        return row != other_row and len(pairs & other_pairs) >= _ALIKE * len(pairs | other_pairs)

    def _read(self, number: int) -> tuple[int, frozenset[int]]:
        """A hash of all of it, and its pairs."""
        self._file.seek(self._starts[number])
        row = self._file.readline()
        return hash(row), pairs_of(row)


def pairs_of(row: bytes) -> frozenset[int]:
    """Hashes of neighbouring words; of text without spaces, of groups of three bytes.

    >>> len(pairs_of(b"the same words, the same words, the same words"))
    4
    """
    if len(row) > _READ:
        row = row[: _READ // 2] + b" " + row[-_READ // 2 :]
    words = row.lower().split()
    if len(words) * 40 < len(row):
        words = [row[at : at + 9] for at in range(0, len(row) - 9, 3)]
    # crc32 goes on where it is given a start: two words are hashed as one, without joining them.
    return frozenset(map(crc32, words[1:], map(crc32, words)))


def _fill(bins: dict[int, int]) -> None:
    """Empty bins borrow from the next one that is not."""
    borrowed = next(bins[at] for at in range(_BINS) if at in bins)
    for at in range(_BINS - 1, -1, -1):
        borrowed = bins.setdefault(at, borrowed)


def _candidates(band: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Rows with the same key, each with those before it."""
    row_mask = (1 << _ROW_BITS) - 1
    near: list[int] = []
    for before, value in pairwise([-1, *sorted(band)]):
        if before < 0 or before >> _ROW_BITS != value >> _ROW_BITS:
            near = []
        number = value & row_mask
        for earlier in near:
            yield earlier, number
        if len(near) < _NEAREST:
            near.append(number)
