"""What matters of a dataset to whoever trains on it, read from its report. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from luthier.datasets.types import Dataset, Lengths

_CHARACTERS_PER_TOKEN = 3
"""Where no tokenizer counted. Low, so that an estimate is rather too high."""
_UNMEASURED_LONGEST, _UNMEASURED_MEAN = 512, 256


@dataclass(frozen=True)
class DataSize:
    """Rows, and their lengths in tokens. Of a pair each answer with its prompt has a length; together they are one row."""

    rows: int
    tokens: int
    longest: int
    lengths: Sequence[tuple[float, int]] = ()
    """Lengths and how many have them, roughly; empty where only the rest is known."""

    def cut(self, most: int) -> DataSize:
        """The same rows, none longer than that."""
        lengths = [(min(length, most), count) for length, count in self.lengths]
        tokens = min(self.tokens, self.rows * most) if not lengths else int(self.tokens * _total(lengths) / _total(self.lengths))
        return DataSize(self.rows, max(self.rows, tokens), min(self.longest, most), lengths)

    @property
    def deviation(self) -> float:
        """By how much lengths differ from their mean, as standard deviation."""
        count = sum(rows for _, rows in self.lengths)
        if not count:
            return 0.0
        mean = _total(self.lengths) / count
        return sqrt(sum(rows * (length - mean) ** 2 for length, rows in self.lengths) / count)


def size_of(dataset: Dataset) -> DataSize:
    """As its report says."""
    rows = dataset.rows or 1
    lengths = dataset.report.lengths if dataset.report else None
    scale = _CHARACTERS_PER_TOKEN if lengths and lengths.unit == "characters" else 1
    longest = (lengths.max if lengths else _UNMEASURED_LONGEST) // scale + 1
    tokens = dataset.tokens or int(rows * (lengths.mean if lengths else _UNMEASURED_MEAN) / scale)
    return DataSize(rows, max(rows, tokens), max(1, longest), _spread(lengths, scale) if lengths else ())


def _spread(lengths: Lengths, scale: int) -> list[tuple[float, int]]:
    return [((each.low + each.high) / 2 / scale, each.rows) for each in lengths.histogram if each.rows]


def _total(lengths: Sequence[tuple[float, int]]) -> float:
    return sum(length * rows for length, rows in lengths)
