"""How one version differs from another: rows by their hashes, distributions by their reports. Nothing of a row is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from luthier.datasets.row_hashes import Difference as Differing
from luthier.datasets.row_hashes import First
from luthier.datasets.rules import SHOWN_A_CODE
from luthier.datasets.types import Changed, Changes, Dataset, Difference, Lengths, Shift

_BINS = 10
_LEAST = 0.0001
"""Share of a bin that is empty on one side: without it a single row could shift a distribution without end."""


def difference(old: Dataset, new: Dataset, old_hashes: Path, new_hashes: Path) -> Difference:
    """From `old` to `new`, whose sorted hashes lie at these paths."""
    found = Differing(SHOWN_A_CODE)
    found.look(old_hashes, new_hashes)
    return Difference(
        old=old.id,
        new=new.id,
        same=found.same,
        added=_changes(found.added),
        dropped=_changes(found.dropped),
        changed_rows=found.changed.count,
        changed=tuple(Changed(line=line, was=was) for line, was in found.changed),
        shifts=shifts(old, new),
    )


def shifts(old: Dataset, new: Dataset) -> tuple[Shift, ...]:
    """How far each distribution of the reports moved, the furthest first."""
    if old.report is None or new.report is None:
        return ()
    found = [
        Shift(distribution=name, stability_index=round(stability_index(before, after), 4))
        for name, before, after in (
            ("labels", old.report.labels, new.report.labels),
            ("roles", old.report.roles, new.report.roles),
            ("languages", old.report.languages, new.report.languages),
            ("lengths", *_binned(old.report.lengths, new.report.lengths)),
        )
        if before and after
    ]
    return tuple(sorted(found, key=lambda shift: -shift.stability_index))


def stability_index(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """The population stability index of two distributions over the same names.

    >>> round(stability_index({"a": 1, "b": 1}, {"a": 3, "b": 1}), 4)
    0.2747
    """
    before, after = sum(old.values()), sum(new.values())
    if not before or not after:
        return 0.0
    total = 0.0
    for name in old.keys() | new.keys():
        expected, actual = max(old.get(name, 0) / before, _LEAST), max(new.get(name, 0) / after, _LEAST)
        total += (actual - expected) * math.log(actual / expected)
    return total


def _binned(old: Lengths | None, new: Lengths | None) -> tuple[dict[str, float], dict[str, float]]:
    """Two histograms over the same bins; within a bin of its own, rows are taken as spread evenly."""
    if old is None or new is None or old.unit != new.unit:
        return {}, {}
    low, high = min(old.min, new.min), max(old.max, new.max) + 1
    edges = [low + (high - low) * number / _BINS for number in range(_BINS + 1)]
    return _spread(old, edges), _spread(new, edges)


def _spread(lengths: Lengths, edges: list[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, (low, high) in enumerate(pairwise(edges)):
        found[str(number)] = sum(
            each.rows * max(0.0, min(high, each.high + 1) - max(low, each.low)) / (each.high + 1 - each.low)
            for each in lengths.histogram
        )
    return found


def _changes(found: First) -> Changes:
    return Changes(rows=found.count, lines=tuple(line for line, _ in found))
