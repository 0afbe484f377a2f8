"""What the demo draws in a terminal: a loss curve of braille dots, and answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of one braille cell, by row and column


def loss_curve(losses: Sequence[float], *, width: int, height: int) -> str:
    """The losses of all steps, averaged into columns; `width` and `height` in characters.

    >>> loss_curve([], width=10, height=2)
    ''
    """
    if not losses:
        return ""
    columns = min(2 * width, len(losses))
    means = [_mean(losses[index * len(losses) // columns : (index + 1) * len(losses) // columns]) for index in range(columns)]
    top = max(means)
    rows = 4 * height
    cells = [[0] * width for _ in range(height)]
    for column, mean in enumerate(means):
        row = min(rows - 1, int((1 - mean / top) * rows)) if top > 0 else rows - 1
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    lines = ["".join(chr(0x2800 + cell) for cell in line) for line in cells]
    labels = [f"{top:6.2f} ", *["       "] * (height - 2), f"{0:6.2f} "]
    return (
        "loss\n"
        + "".join(f"{label}{line}\n" for label, line in zip(labels, lines, strict=True))
        + f"       step 1 to {len(losses)}\n"
    )


def side_by_side(samples: Sequence[dict[str, Any]]) -> Table:
    """Question, expected answer, and what both models say."""
    table = Table(show_lines=True, expand=True)
    for head in ("message", "expected", "base", "tuned"):
        table.add_column(head, overflow="fold")
    for sample in samples:
        table.add_row(*(_short(str(sample[name])) for name in ("prompt", "expected", "base", "tuned")))
    return table


def _short(text: str, most: int = 160) -> str:
    # Rich reads brackets as markup; an answer of a model is text.
    return (text if len(text) <= most else text[:most] + " ...").replace("[", "\\[")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
