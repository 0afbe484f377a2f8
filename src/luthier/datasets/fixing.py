"""What a cleaned version left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from luthier.datasets.rules import SHOWN_A_CODE
from luthier.datasets.types import Dataset, Finding, Fixed, Report


def dropped_of(path: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Rows that a check left out: how many of each kind, and the first of each."""
    counts: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for text in file:
            left_out: dict[str, Any] = json.loads(text)
            counts[left_out["code"]] += 1
            if counts[left_out["code"]] <= SHOWN_A_CODE:
                shown.append(left_out)
    return counts, sorted(shown, key=lambda each: each["line"] or 0)


def fixed_of(source: Dataset, fixed: Dataset, report: Report, dropped: Path) -> Fixed:
    """The answer to `fix`, with what the check of the source wrote into `dropped`."""
    counts, shown = dropped_of(dropped)
    mended = {(each.line, each.code): each for each in report.findings}
    unknown = {"severity": "warning", "fix": "It was left out."}
    return Fixed(
        dataset=fixed,
        source=source.id,
        dropped_rows=counts.total(),
        counts=dict(counts),
        dropped=tuple(mended.get((each["line"], each["code"]), Finding.model_validate({**unknown, **each})) for each in shown),
    )
