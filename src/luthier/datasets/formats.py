"""From the bytes of a file to training examples: what the trainer and the validation both read.

`records` goes on after a bad record, for a report; `read_examples` stops at the first one, for a trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from luthier.datasets.examples import BadRow, Example, Parsed
from luthier.datasets.lines import Raw, raw_records
from luthier.datasets.schemas import Reader
from luthier.datasets.strict_json import parse

__all__ = ["BadRow", "Example", "Parsed", "read_examples", "records"]


def read_examples(stream: BinaryIO) -> Iterator[Example]:
    """The examples of a file in order, in constant memory. JSON lines or one JSON array, found by content.

    Raises: BadRow for the first record that cannot be used.
    """
    for record in records(stream):
        if isinstance(record, BadRow):
            raise record
        yield record.example


def records(stream: BinaryIO) -> Iterator[Parsed | BadRow]:
    """Every record of a file: read, or why it cannot be. A `BadRow` that is `fatal` is the last one."""
    reader = Reader()
    for raw in raw_records(stream):
        if isinstance(raw, BadRow):
            yield raw
            continue
        yield _parsed(reader, raw)


def _parsed(reader: Reader, raw: Raw) -> Parsed | BadRow:
    try:
        return reader.read(raw.line, parse(raw.line, raw.data))
    except BadRow as bad:
        return bad
