"""CSV that a spreadsheet shows, and never runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(cells: Iterable[object]) -> str:
    """One line of CSV. Text that a spreadsheet would take for a formula gets an apostrophe in front; None is empty.

    >>> csv_line(["=HYPERLINK(1)", -5, None])
    "'=HYPERLINK(1),-5,\\r\\n"
    """
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(cell) for cell in cells])
    return line.getvalue()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell
