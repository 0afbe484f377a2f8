"""From the bytes of a file to what its rows teach: what the trainer and the validation both read.

`records` goes on after a bad record, for a report; `read_rows` stops at the first one, for a trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from luthier.datasets.containers import Peeked, is_packed
from luthier.datasets.examples import BadRow, Example, FileRemark, Labelled, Pair, Parsed, Prompt, Rated, Row
from luthier.datasets.kinds import KINDS
from luthier.datasets.lines import Block, Raw, Readable, raw_blocks, raw_records
from luthier.datasets.schemas import Reader
from luthier.datasets.strict_json import checked, parse
from luthier.datasets.tables import Fields

__all__ = [
    "BadRow",
    "Example",
    "FileRemark",
    "Labelled",
    "Pair",
    "Parsed",
    "Prompt",
    "Rated",
    "read_rows",
    "records",
    "row_blocks",
    "rows_in",
    "stored_row",
]

R = TypeVar("R", bound=Example | Pair | Rated | Prompt | Labelled)


def read_rows(stream: Readable, kind: type[R]) -> Iterator[R]:
    """The rows of a file in order, in constant memory. JSON lines, one JSON array or a table, found by content.

    Raises: BadRow for the first record that cannot be used, or that is of another kind.
    """
    for block in row_blocks(stream):
        yield from rows_in(block, kind)


def row_blocks(stream: Readable) -> Iterator[Block]:
    """The same file in blocks of rows, which may be read by several. Raises: BadRow for a packed one."""
    plain = Peeked(stream)
    if is_packed(plain.head):
        said = "The file is packed (gzip, zstd, zip or tar), and a trainer reads rows as they are stored."
        raise BadRow(None, "archive", said, "Unpack it first, or upload it: the platform unpacks what it stores.", fatal=True)
    yield from raw_blocks(plain)


def rows_in(block: Block, kind: type[R]) -> Iterator[R]:
    """The rows of one block. Raises: as `read_rows`."""
    for raw in block.records():
        if isinstance(raw, FileRemark):
            continue
        # Each row by itself: texts and conversations of one kind look like two kinds once they are stored.
        record = raw if isinstance(raw, BadRow) else parsed_of(Reader(), raw)
        if isinstance(record, BadRow):
            raise record
        if not isinstance(record.row, kind):
            found = KINDS[record.schema_name]
            said, fix = (
                f"This row is {found.noun}: another method learns from it.",
                f"Set `method` to {' or '.join(found.methods)}.",
            )
            raise BadRow(record.line, "schema_mismatch", said, fix)
        yield record.row


def records(stream: Readable, mapping: Mapping[str, str] | None = None) -> Iterator[Parsed | FileRemark | BadRow]:
    """Every record of a file: read, or why it cannot be. A `BadRow` that is `fatal` is the last one."""
    return read_records(raw_records(stream, mapping), mapping)


def read_records(
    raws: Iterable[Raw | Fields | FileRemark | BadRow], mapping: Mapping[str, str] | None = None
) -> Iterator[Parsed | FileRemark | BadRow]:
    """What raw records teach, their fields renamed by the mapping."""
    reader = Reader(mapping)
    for raw in raws:
        yield raw if isinstance(raw, BadRow | FileRemark) else parsed_of(reader, raw)


def stored_row(line: int, canonical: bytes) -> Row:
    """A row as it was stored. Raises: BadRow, which would be a fault of ours."""
    value = parse(line, canonical)
    if value.keys() == {"messages"}:
        return Example(messages=tuple(value["messages"]), line=line)
    return Reader().read(line, value).row


def parsed_of(reader: Reader, raw: Raw | Fields) -> Parsed | BadRow:
    """One record, or why it is none."""
    try:
        return reader.read(raw.line, checked(raw.line, raw.row) if isinstance(raw, Fields) else parse(raw.line, raw.data))
    except BadRow as bad:
        return bad
