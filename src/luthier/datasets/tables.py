"""CSV: labelled texts with a header (`text`, `label`), or images as a label and their pixels, with a header or without.

Everything else that has commas is read as JSON lines, and refused as such. `,`, `;` and tab separate; the first line tells.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow

_LEAST_CELLS = 5
"""A label and four pixels."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One row of a table, as JSON would have it."""

    line: int
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """How a file is laid out. Without `text` all cells but the label are pixels."""

    delimiter: str
    header: bool
    label: int
    text: int | None


def table_of(head: bytes) -> Table | None:
    """The layout of a file that starts like this; None where it is no table that can be learned from.

    >>> table_of(b"text,label\\nhello,greeting\\n")
    Table(delimiter=',', header=True, label=1, text=0)
    >>> table_of(b"7,0,0,255,0\\n").header, table_of(b"a,b\\n")
    (False, None)
    """
    text = head.decode("utf-8", "replace").lstrip()
    first, ended, _ = text.partition("\n")
    if not first or first[0] in "{[":
        return None
    for delimiter in ",;\t":
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            return None
        table = _layout(delimiter, cells if ended else cells[:-1])
        if table is not None:
            return table
    return None


def _layout(delimiter: str, cells: Sequence[str]) -> Table | None:
    names = [_name(cell) for cell in cells]
    if "label" in names and ("text" in names or len(names) >= _LEAST_CELLS):
        return Table(delimiter, True, names.index("label"), names.index("text") if "text" in names else None)
    if len(cells) >= _LEAST_CELLS and all(_is_number(cell) for cell in cells[1:]):
        return Table(delimiter, False, 0, None)
    return None


def table_rows(read: Callable[[], bytes], table: Table) -> Iterator[Fields | BadRow]:
    """The rows in order. A `BadRow` that is `fatal` is the last: nothing can be found after it."""
    reader = csv.reader(_lines(read), delimiter=table.delimiter, strict=True)
    width: int | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if width is None:
                width = len(cells)
                if table.header:
                    continue
            yield _row(reader.line_num, cells, table, width)
    except csv.Error as error:
        said = f"The row is no CSV ({error})."
        yield BadRow(reader.line_num, "csv_syntax", said, 'Quote texts with ", and write " inside them twice.', fatal=True)
    except BadRow as bad:
        yield bad


def _row(line: int, cells: Sequence[str], table: Table, width: int) -> Fields | BadRow:
    if len(cells) != width:
        said = f"The row has {len(cells)} cells, the first one has {width}."
        return BadRow(line, "csv_syntax", said, "Give every row the same number of cells.")
    label = cells[table.label]
    if table.text is not None:
        return Fields(line, {"text": cells[table.text], "label": label})
    pixels = [*cells[: table.label], *cells[table.label + 1 :]]
    try:
        return Fields(line, {"image": _numbers(pixels), "label": label.strip()})
    except ValueError:
        return BadRow(
            line,
            "bad_type",
            "A cell beside the label is not a number.",
            "Write pixels as numbers, or a header with `text` and `label`.",
        )


def _numbers(cells: Sequence[str]) -> list[int] | list[float]:
    try:
        return [int(cell) for cell in cells]
    except ValueError:
        return [float(cell) for cell in cells]


def _lines(read: Callable[[], bytes]) -> Iterator[str]:
    """Lines as text, each with its end. Raises: BadRow for one that is too long, or not UTF-8."""
    number, rest = 0, b""
    while chunk := read():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            number += 1
            yield _text(number, line) + "\n"
        if len(rest) > MAX_RECORD_BYTES:
            raise _too_long(number + 1)
    if rest:
        yield _text(number + 1, rest)


def _text(number: int, line: bytes) -> str:
    if len(line) > MAX_RECORD_BYTES:
        raise _too_long(number)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRow(number, "encoding", "The line is not UTF-8.", "Save the file as UTF-8.", fatal=True) from None


def _too_long(number: int) -> BadRow:
    return BadRow(number, "line_too_long", f"A line is longer than {MAX_RECORD_BYTES:,} bytes.", "Split the row.", fatal=True)


def _name(cell: str) -> str:
    return cell.strip().lower()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
