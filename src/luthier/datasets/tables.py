"""CSV: a table with a header, or images as a label and their pixels, with a header or without. `,`, `;`, tab and `|` separate.

A file is a table where its first line names columns that are known, or where its lines have equally many cells.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow, FileRemark, Remark
from luthier.datasets.kinds import FIELDS
from luthier.datasets.strict_json import AS_UTF8, parse

_LEAST_CELLS = 5
"""A label and four pixels."""
_LOOKED_AT = 20
"""Lines that tell whether a file is a table."""
_COLUMN = re.compile(r"[\w-]{1,64}( [\w-]{1,64}){0,2}")
"""A name of at most three words: more are a text already."""
_JSON = frozenset({"messages", "conversations", "tools", "history"})
"""Cells that hold JSON."""
_NULL = frozenset({"input", "system", "tools", "history", "weight"})
"""Cells that may be empty: then the row does not have the field."""
_RATINGS = {"true": True, "false": False}
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_ALONE = frozenset({"messages", "conversations", "text", "prompt"})
"""Columns that make a table by themselves."""
_SEPARATOR_LINE = re.compile(r"sep=[,;\t|]\r?\n", re.IGNORECASE)
"""With it Excel starts a table; it is no row."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One row of a table, as JSON would have it."""

    line: int
    row: dict[str, Any]

    @property
    def size(self) -> int:
        """About how large it is: its texts."""
        return sum(len(value) for value in self.row.values() if type(value) is str)


@dataclass(frozen=True, slots=True)
class Table:
    """How a file is laid out. `pixels` is the place of the label where all other cells are pixels."""

    delimiter: str
    header: bool
    pixels: int | None = None


def table_of(head: bytes, mapping: Mapping[str, str] | None = None) -> Table | None:
    """The layout of a file that starts like this; None where it is no table.

    >>> table_of(b"text,label\\nhello,greeting\\n")
    Table(delimiter=',', header=True, pixels=None)
    >>> table_of(b"7,0,0,255,0\\n")
    Table(delimiter=',', header=False, pixels=0)
    >>> table_of(b"One line, and a comma.\\n") is None
    True
    """
    text = head.decode("utf-8", "replace").lstrip()
    if (first := _SEPARATOR_LINE.match(text)) is not None:
        text = text[first.end() :]
    if not text or text[0] in "{[":
        return None
    known = FIELDS | {_name(source) for given in (mapping or {}).values() for source in given.split("+")}
    best: tuple[int, Table] | None = None
    for delimiter in _DELIMITERS:
        table, cells = _layout(text, delimiter, known, (mapping or {}).get("label", "label"))
        if table is not None and (best is None or cells > best[0]):
            best = (cells, table)
    return None if best is None else best[1]


def _layout(text: str, delimiter: str, known: frozenset[str], label: str) -> tuple[Table | None, int]:
    """The layout with this delimiter, and how much speaks for it."""
    records: list[list[str]] = []
    with suppress(csv.Error):  # told when the row is read; what came before it may be enough
        records.extend(islice(csv.reader(io.StringIO(text), delimiter=delimiter), _LOOKED_AT))
    first, ended, _ = text.partition("\n")
    cells = records[0] if records and (ended or len(text) < len(first) + 1) else []
    cells = cells if "\n" in text else cells[:-1] if len(cells) > _LEAST_CELLS else cells
    names = [_name(cell) for cell in cells]
    if len(cells) < 2:
        alone = bool(ended) and delimiter == "," and not (_ALONE | (known - FIELDS)).isdisjoint(names)
        return (Table(delimiter, True), 1) if alone else (None, 0)
    if _name(label) in names and len(names) >= _LEAST_CELLS and not (set(names) & known) - {_name(label)}:
        return Table(delimiter, True, names.index(_name(label))), 1000
    if set(names) & known:
        return Table(delimiter, True), 1000
    if delimiter == "|":
        return None, 0  # a table for people has such, too
    if len(cells) >= _LEAST_CELLS and all(_is_number(cell) for cell in cells[1:]):
        return Table(delimiter, False, 0), 1000
    full = records[:-1] if len(records) > 2 else records  # the last one may be cut off
    if len(full) < 2 or any(len(record) != len(cells) for record in full if record):
        return None, 0
    return Table(delimiter, all(_COLUMN.fullmatch(cell) and not _is_number(cell) for cell in cells)), len(cells)


def table_rows(read: Callable[[], bytes], table: Table) -> Iterator[Fields | FileRemark | BadRow]:
    """The rows in order, each with the line that it starts at. A `BadRow` that is `fatal` is the last."""
    reader = csv.reader(_lines(read), delimiter=table.delimiter, strict=True)
    columns: list[str | None] | None = None
    after = 0
    try:
        for cells in reader:
            line, after = after + 1, reader.line_num
            if not cells or (line == 1 and cells[0].lower().startswith("sep=")):
                continue
            if columns is None:
                columns = _columns(cells, table)
                yield from _remarks(cells, columns, table)
                if table.header:
                    continue
            yield _row(line, cells, columns, table)
    except csv.Error as error:
        said = f"The row is no CSV ({error})."
        yield BadRow(reader.line_num, "csv_syntax", said, 'Quote texts with ", and write " inside them twice.', fatal=True)
    except BadRow as bad:
        yield bad


def _columns(cells: Sequence[str], table: Table) -> list[str | None]:
    """What the columns are called; one without a name is not read (pandas writes its index so). Raises: BadRow."""
    if table.pixels is not None:
        return [None] * len(cells)
    if not table.header:
        said = "The first line is a row already: the columns have no names."
        fix = 'Write their names as the first line, e.g. text,label. (Of plain texts write {"text": ...}, one a line.)'
        raise BadRow(1, "header", said, fix, fatal=True)
    names = [_name(cell) if _name(cell) in FIELDS else cell.strip() or None for cell in cells]
    given = [name for name in names if name is not None]
    if len(set(given)) != len(given):
        said = "Two columns have the same name."
        raise BadRow(1, "duplicate_column", said, "Rename or remove one: which of them counts cannot be known.", fatal=True)
    return names


def _remarks(cells: Sequence[str], columns: Sequence[str | None], table: Table) -> Iterator[FileRemark]:
    if table.delimiter != ",":
        noun = _DELIMITERS[table.delimiter]
        yield FileRemark(1, Remark("delimiter", f"The cells are separated by {noun}; they were read so.", "Nothing, if so."))
    if any(name is not None and name != cell for name, cell in zip(columns, cells, strict=True)):
        said = "Names of columns were read without the spaces around them and in small letters."
        known = ", ".join(name for name in columns if name in FIELDS)
        yield FileRemark(1, Remark("column_name", said, f"Write them so: {known}." if known else "Write them without spaces."))


def _row(line: int, cells: Sequence[str], columns: Sequence[str | None], table: Table) -> Fields | BadRow:
    if len(cells) != len(columns):
        said = f"The row has {len(cells)} cells, the first one has {len(columns)}."
        return BadRow(line, "csv_syntax", said, "Give every row the same number of cells.")
    if table.pixels is not None:
        return _image(line, cells, table.pixels)
    row: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=True) if name is not None}
    try:
        for name in row.keys() & FIELDS:
            row[name] = _value(line, name, row[name], rated="completion" in row)
    except BadRow as bad:
        return bad
    return Fields(line, row)


def _value(line: int, name: str, cell: str, *, rated: bool) -> Any:
    """A cell as what a row of JSON would hold there. Raises: BadRow."""
    if name in _NULL and not cell.strip():
        return None
    if name in _JSON and cell.lstrip()[:1] in {"[", "{"}:
        return parse(line, cell.encode())
    if name == "label" and rated:
        return _RATINGS.get(cell.strip().lower(), cell)
    return float(cell) if name == "weight" and _is_number(cell) else cell


def _image(line: int, cells: Sequence[str], label: int) -> Fields | BadRow:
    try:
        return Fields(line, {"image": _numbers([*cells[:label], *cells[label + 1 :]]), "label": cells[label].strip()})
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
        raise BadRow(number, "encoding", "The line is not UTF-8.", AS_UTF8, fatal=True) from None


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
