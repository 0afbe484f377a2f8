"""From the bytes of a file to what its rows teach: what the trainer and the validation both read.

`records` goes on after a bad record, for a report; `read_rows` stops at the first one, for a trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, TypeVar

from luthier.datasets.examples import BadRow, Example, Labelled, Pair, Parsed, Prompt, Rated
from luthier.datasets.kinds import KINDS
from luthier.datasets.lines import Raw, raw_records
from luthier.datasets.schemas import Reader
from luthier.datasets.strict_json import parse
from luthier.datasets.tables import Fields

__all__ = ["BadRow", "Example", "Labelled", "Pair", "Parsed", "Prompt", "Rated", "read_examples", "read_rows", "records"]

R = TypeVar("R", bound=Example | Pair | Rated | Prompt | Labelled)


def read_examples(stream: BinaryIO) -> Iterator[Example]:
    """The examples of a file in order, in constant memory. Raises: BadRow for the first record that is none."""
    return read_rows(stream, Example)


def read_rows(stream: BinaryIO, kind: type[R]) -> Iterator[R]:
    """The rows of a file in order, in constant memory. JSON lines, one JSON array or a table, found by content.

    Raises: BadRow for the first record that cannot be used, or that is of another kind.
    """
    for record in records(stream):
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


def records(stream: BinaryIO) -> Iterator[Parsed | BadRow]:
    """Every record of a file: read, or why it cannot be. A `BadRow` that is `fatal` is the last one."""
    reader = Reader()
    for raw in raw_records(stream):
        if isinstance(raw, BadRow):
            yield raw
            continue
        yield _parsed(reader, raw)


def _parsed(reader: Reader, raw: Raw | Fields) -> Parsed | BadRow:
    try:
        return reader.read(raw.line, raw.row if isinstance(raw, Fields) else parse(raw.line, raw.data))
    except BadRow as bad:
        return bad
