"""From an uploaded file to its records, whatever it is packed in and whatever format it has: all found by content.

For the process that checks uploads. Trainers read the rows that it wrote (`formats.read_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from luthier.datasets.containers import Limits, Peeked, unpack, zipped_pair
from luthier.datasets.examples import BadRow, FileRemark, Parsed
from luthier.datasets.formats import read_records
from luthier.datasets.idx import alone, idx_rows, is_idx
from luthier.datasets.lines import Block, FormatName, Records, format_of, in_blocks, raw_blocks
from luthier.datasets.parquet import is_parquet, parquet_rows
from luthier.datasets.tables import Fields

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Reading:
    """How a file is to be read."""

    limits: Limits
    scratch: Path
    """A file that may be written: Parquet cannot be read as it is unpacked."""
    mapping: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Opened:
    """What a file is, and its records in order, many at a time. A `BadRow` that is `fatal` is the last one."""

    blocks: Iterator[Block]
    mapping: Mapping[str, str] = field(default_factory=dict[str, str])
    format: FormatName | Literal["parquet", "idx"] | None = None
    containers: tuple[str, ...] = ()

    @property
    def records(self) -> Iterator[Parsed | FileRemark | BadRow]:
        """One by one, read."""
        return read_records((raw for block in self.blocks for raw in block.records()), self.mapping)


def opened(source: BinaryIO, reading: Reading) -> Opened:
    """The records of a file that stands at its start; they are read as they are asked for. Raises: OSError."""
    try:
        pair = zipped_pair(source, reading.limits)
        if pair is not None and any(is_idx(each.head) for each in pair):
            return Opened(in_blocks(idx_rows(*pair)), reading.mapping, "idx", ("zip",))
        source.seek(0)
        found = unpack(source, reading.limits)
        if is_idx(found.stream.head):
            raise alone()
    except BadRow as bad:
        return Opened(iter([Records([bad])]))
    tail = b"" if found.containers else _tail(source, found.stream)
    if is_parquet(found.stream.head, tail):
        raws = _parquet(Path(source.name), found.stream, found.containers, reading)
        return Opened(in_blocks(raws), reading.mapping, "parquet", found.containers)
    name = format_of(found.stream.head, reading.mapping)
    return Opened(raw_blocks(found.stream, reading.mapping), reading.mapping, name, found.containers)


def _tail(source: BinaryIO, stream: Peeked) -> bytes:
    at = source.tell()
    source.seek(max(0, source.seek(0, 2) - 4))
    tail = source.read(4) if len(stream.head) > 4 else b""
    source.seek(at)
    return tail


def _parquet(path: Path, stream: Peeked, containers: tuple[str, ...], reading: Reading) -> Iterator[Fields | BadRow]:
    if containers:
        path = reading.scratch
        try:
            with path.open("wb") as file:
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
        except BadRow as bad:
            yield bad
            return
    yield from parquet_rows(path, Limits(path.stat().st_size, reading.limits.unpacked_bytes))
