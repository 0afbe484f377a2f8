"""Checks the records of one block of a file, apart from all others: what can be done in any process and in any order."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from luthier.datasets import rules, scanner
from luthier.datasets.content import Content, search
from luthier.datasets.endings import Ends
from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow, FileRemark, Parsed
from luthier.datasets.formats import parsed_of
from luthier.datasets.keeping import Keepsakes, dropped
from luthier.datasets.lines import Block, Lines, Raw, record_of
from luthier.datasets.plain_chats import PlainChats, Run, Runs, Shape
from luthier.datasets.row_hashes import cut, hashes
from luthier.datasets.schemas import Reader
from luthier.datasets.strict_json import dump
from luthier.datasets.tables import Fields
from luthier.datasets.tally import Tally

# What such rows are is told by all rows before them, too: by the labels and by the size of the images so far.
_IN_ORDER = frozenset({"labelled", "images"})


@dataclass(slots=True)
class Checked:
    """What the check of one block says."""

    tally: Tally
    ends: Ends
    turns: Counter[int]
    sources: Counter[str]
    records: int
    fatal: bool
    kept: Keepsakes


@dataclass(slots=True)
class _Seen:
    """What was seen of a block so far."""

    tally: Tally
    """Of this block, or the whole file's, if that was at hand."""
    rejected: bool = False
    """Nothing is kept: the file has an error before this block."""
    records: int = 0
    fatal: bool = False
    ends: Ends = field(default_factory=Ends)
    turns: Counter[int] = field(default_factory=Counter[int])
    sources: Counter[str] = field(default_factory=Counter[str])
    hashes: bytearray = field(default_factory=bytearray)
    rows: bytearray = field(default_factory=bytearray)
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    lines: array[int] = field(default_factory=lambda: array("Q"))
    dropped: list[bytes] = field(default_factory=list[bytes])
    shapes: Counter[Shape] = field(default_factory=Counter[Shape])
    characters: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def keeps(self) -> bool:
        """A rejected file needs no rows, and no look at its texts."""
        return not self.rejected and not self.tally.errors

    def plain(self, run: Run) -> None:
        """Rows of which there is nothing to say, unless of their texts."""
        self.records += len(run.lines)
        self.shapes.update(run.shapes)
        self.characters += run.characters
        self.hashes += run.hashes
        if not self.keeps:
            return
        self.rows += run.rows
        self.sizes += run.sizes
        self.lines += run.lines
        self.ends.add(run.ends)
        for shape, rows in run.shapes.items():
            self.turns[shape.answers] += rows
        if run.suspects:
            starts = list(accumulate(run.sizes, initial=0))
            for at in run.suspects:
                search(self.tally, run.lines[at], run.rows[starts[at] : starts[at + 1]])

    def close(self) -> Checked:
        self.tally.chats(self.shapes, self.characters)
        hashes = b"".join(sorted(cut(self.hashes)))
        kept = Keepsakes(hashes, self.rows, self.lines, self.sizes, b"".join(self.dropped))
        return Checked(self.tally, self.ends, self.turns, self.sources, self.records, self.fatal, kept)


class Inspector:
    """Checks blocks of one file: the first that holds a row that can be read says what all rows are."""

    def __init__(self, mapping: Mapping[str, str], content: Content, *, drop: bool = False, library: Path | None = None) -> None:
        """`library` is where the scanner is compiled to, now or soon."""
        self._reader = Reader(mapping)
        self._mapped = bool(mapping)
        self._content = content
        self._drop = drop
        self._chats: Runs = PlainChats()
        self._library = library

    @property
    def shareable(self) -> bool:
        """Whether others that are like this one now can check the blocks that follow."""
        return self._reader.kind is not None and self._reader.kind not in _IN_ORDER

    def check(self, block: Block, tally: Tally, *, rejected: bool = False, most: int | None = None) -> Checked:
        """Read every record of a block; beyond `most` of them the file is too long."""
        seen = _Seen(tally, rejected)
        if isinstance(block, Lines) and self._reader.kind == "chat" and not self._mapped and most is None:
            self._lines(seen, block)
        else:
            for raw in block.records():
                self._next(seen, raw, most)
                if seen.fatal:
                    break
        return seen.close()

    def _lines(self, seen: _Seen, block: Lines) -> None:
        chats, data, at, number = self._plain(), block.data, 0, block.first
        while at < len(data):
            run = chats.run(data, at, number)
            if run is not None:
                seen.plain(run)
                at, number = run.at, run.line
                if at == len(data):
                    return
            end = data.find(b"\n", at)
            line = data[at : end if end >= 0 else len(data)]
            if (raw := record_of(number, line)) is not None:
                self._next(seen, raw, None)
                if seen.fatal:
                    return
            at, number = at + len(line) + 1, number + 1

    def _plain(self) -> Runs:
        if self._library is not None and (found := scanner.opened(self._library)):
            self._chats, self._library = found, None
        return self._chats

    def _next(self, seen: _Seen, raw: Raw | Fields | FileRemark | BadRow, most: int | None) -> None:
        tally = seen.tally
        if most is not None and seen.records == most:
            raw = BadRow(None, "too_many_rows", f"More than {rules.MAX_ROWS:,} rows.", "Split the file.", fatal=True)
        seen.records += 1
        if isinstance(raw, FileRemark):
            tally.note(raw.line, raw.remark.code, "warning", (raw.remark.message, raw.remark.fix))
            return
        read = _stored(raw if isinstance(raw, BadRow) else parsed_of(self._reader, raw), drop=self._drop)
        if isinstance(read, BadRow):
            seen.fatal = read.fatal
            tally.bad(read)
            if self._drop:
                seen.dropped.append(dropped(read.line, read.code, read.message))
            return
        self._good(seen, *read)

    def _good(self, seen: _Seen, parsed: Parsed, canonical: bytes) -> None:
        seen.tally.good(parsed)
        seen.hashes += hashes(parsed.row, canonical, parsed.line)
        if seen.keeps:
            seen.rows += canonical
            seen.sizes.append(len(canonical))
            seen.lines.append(parsed.line)
            self._content.look(seen.tally, seen.ends, parsed, canonical)
            if parsed.row.messages:
                seen.turns[sum(message["role"] == "assistant" for message in parsed.row.messages)] += 1
            if parsed.source is not None:
                seen.sources[parsed.source] += 1


def _stored(record: Parsed | BadRow, *, drop: bool) -> tuple[Parsed, bytes] | BadRow:
    """A record with the bytes that are kept of it, or why it is not kept."""
    if isinstance(record, BadRow):
        return record
    canonical = dump(record.row.canonical()) + b"\n"
    if len(canonical) > MAX_RECORD_BYTES:
        # Some rows grow in their one form, and a trainer could then not read them.
        said = f"The row has {len(canonical):,} bytes as it is stored; {MAX_RECORD_BYTES:,} are allowed."
        return BadRow(record.line, "line_too_long", said, "Split it, or shorten its texts.")
    for remark in record.remarks if drop else ():
        if remark.code in rules.USELESS:
            return BadRow(record.line, remark.code, remark.message, remark.fix)
    return record, canonical
