"""From bytes to raw records, in constant memory: lines, the elements of one JSON array, a table's rows, or plain texts.

Which of these it is, is found by content.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from luthier.datasets.examples import MAX_DEPTH, MAX_RECORD_BYTES, BadRow, FileRemark, Remark
from luthier.datasets.strict_json import AS_UTF8, too_deep
from luthier.datasets.tables import Fields, table_of, table_rows

_CHUNK = MAX_RECORD_BYTES
_HEAD = 4096
"""What the format is told by; a stream may give fewer bytes at a time than it is asked for."""
_AT_ONCE = 256
"""Records of a block, where it is not lines of JSON."""
_WHITESPACE = b" \t\r\n"
_MARK = re.compile(rb"[\[{\"(']|-?\d+(\.\d+)?$|null$|true$|false$|NaN$|None$|}|\]")
"""How a line of JSON starts, or of what was meant as such."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_TOO_LONG = f"A line is longer than {MAX_RECORD_BYTES:,} bytes"
_MAGIC = (
    (b"BZh", "encoding", "bzip2"),
    (b"\xfd7zXZ\x00", "encoding", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "encoding", "a 7z archive"),
    (b"Rar!", "encoding", "a RAR archive"),
    (b"\x7fELF", "type", "a program (ELF)"),
    (b"\x89PNG", "type", "a PNG image"),
    (b"%PDF", "type", "a PDF"),
    (b"\x80\x04", "type", "a Python pickle"),
    (b"\x80\x05", "type", "a Python pickle"),
    (b"ARROW1", "type", "an Arrow file"),
    (b"Obj\x01", "type", "an Avro file"),
    (b"ORC", "type", "an ORC file"),
    (b"SQLite format 3\x00", "type", "a database (SQLite)"),
    (b"\xd0\xcf\x11\xe0", "type", "a document of an older Office"),
    (b"{\\rtf", "type", "a document (RTF)"),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_LONE_BRACE = re.compile(rb"\s*\{[ \t]*\r?\n")
"""How a file starts whose objects are written over several lines."""


FormatName = Literal["json", "csv", "text", "jsonl"]


class Readable(Protocol):
    """Bytes from front to end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Raw(NamedTuple):
    """The bytes of one record, as they stand in the file."""

    line: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of JSON, as they stand in the file."""

    first: int
    """The number of the first of them."""
    count: int
    """How many of them have an end: the last one of a file may have none."""
    data: bytes

    def records(self) -> Iterator[Raw | BadRow]:
        """The lines that are not empty; a `BadRow` is the last one, because nothing can be found after it."""
        for number, line in self.lines():
            found = record_of(number, line)
            if found is not None:
                yield found
            if isinstance(found, BadRow):
                return

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """All of them, each with its number."""
        return enumerate(self.data.split(b"\n"), self.first)


@dataclass(frozen=True, slots=True)
class Records:
    """Records that were cut from a file in another way than by its lines."""

    raws: list[Raw | Fields | FileRemark | BadRow]

    @property
    def count(self) -> int:
        return len(self.raws)

    def records(self) -> Iterator[Raw | Fields | FileRemark | BadRow]:
        return iter(self.raws)


Block = Lines | Records


def record_of(number: int, line: bytes) -> Raw | BadRow | None:
    """One line, if there is something on it."""
    if len(line) > MAX_RECORD_BYTES:
        return _too_long(number)
    return Raw(number, line) if line and not line.isspace() else None


class _Input:
    """A stream without its byte order mark, whose first bytes can be looked at."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        head = b""
        while len(head) < _HEAD and (chunk := stream.read(_CHUNK)):
            head += chunk
        self.head = head.removeprefix(codecs.BOM_UTF8)

    def read(self) -> bytes:
        head, self.head = self.head, b""
        return head or self._stream.read(_CHUNK)


def is_array(head: bytes) -> bool:
    """Whether a file that starts like this is one JSON array and not lines."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip(_WHITESPACE).startswith(b"[")


def format_of(head: bytes, mapping: Mapping[str, str] | None = None) -> FormatName:
    """What a file that starts like this is read as."""
    if is_array(head):
        return "json"
    head = head.removeprefix(codecs.BOM_UTF8)
    if table_of(head, mapping) is not None:
        return "csv"
    return "text" if _is_prose(head) else "jsonl"


def raw_records(stream: Readable, mapping: Mapping[str, str] | None = None) -> Iterator[Raw | Fields | FileRemark | BadRow]:
    """The records of a file in order; a `BadRow` that is `fatal` is the last one, because nothing can be found after it."""
    for block in raw_blocks(stream, mapping):
        for raw in block.records():
            yield raw
            if isinstance(raw, BadRow) and raw.fatal:
                return


def raw_blocks(stream: Readable, mapping: Mapping[str, str] | None = None) -> Iterator[Block]:
    """The same records, many at a time: lines of JSON as they stand in the file, so that another process may read them."""
    try:
        source = _Input(stream)
        wrong = _not_text(source.head)
        if wrong is not None:
            raise wrong
        lines = format_of(source.head, mapping) == "jsonl"
        yield from _whole_lines(source) if lines else in_blocks(_records(source, mapping))
    except BadRow as bad:  # also what the unpacking of a packed file found out on the way
        bad.fatal = True
        yield Records([bad])


def in_blocks(raws: Iterator[Raw | Fields | FileRemark | BadRow]) -> Iterator[Block]:
    """Records one by one, many at a time; of a fault in the reading a `BadRow` that is fatal."""
    some: list[Raw | Fields | FileRemark | BadRow] = []
    size = 0
    try:
        for raw in raws:
            some.append(raw)
            size += len(raw.data) if isinstance(raw, Raw) else raw.size if isinstance(raw, Fields) else 0
            if len(some) == _AT_ONCE or size > _CHUNK:
                yield Records(some)
                some, size = [], 0
    except BadRow as bad:
        bad.fatal = True
        some.append(bad)
    if some:
        yield Records(some)


def _records(source: _Input, mapping: Mapping[str, str] | None) -> Iterator[Raw | Fields | FileRemark | BadRow]:
    if is_array(source.head):
        said = "The file is one JSON array; its elements were read as rows."
        yield FileRemark(1, Remark("format", said, "JSON lines load faster: one object a line."))
        yield from _Elements(source).records()
    elif (table := table_of(source.head, mapping)) is not None:
        yield from table_rows(source.read, table)
    else:
        said = "The file is plain text: each line was read as a text of its own, all of which is learned."
        yield FileRemark(None, Remark("plain_text", said, 'For longer texts write {"text": ...}, one a line.'))
        yield from _prose(line for block in _whole_lines(source) for line in block.records())


def _is_prose(head: bytes) -> bool:
    """Whether these are lines for people: readable, and none of them JSON or the beginning of it."""
    lines = [line.strip() for line in head.splitlines() if line.strip()]
    if not lines or any(_MARK.match(line) for line in lines) or _CONTROL.search(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _prose(lines: Iterator[Raw | BadRow]) -> Iterator[Fields | BadRow]:
    for line in lines:
        if isinstance(line, BadRow):
            yield line
            continue
        try:
            yield Fields(line.line, {"text": line.data.decode("utf-8").strip()})
        except UnicodeDecodeError:
            yield BadRow(line.line, "encoding", "The line is not UTF-8.", AS_UTF8)


def _not_text(head: bytes) -> BadRow | None:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return BadRow(1, "encoding", "The file is UTF-32.", "Save it as UTF-8 (`iconv -f utf-32 -t utf-8`).", fatal=True)
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head[:2] in (b"{\0", b"\0{", b"[\0", b"\0[")
    if utf16:
        return BadRow(1, "encoding", "The file is UTF-16.", "Save it as UTF-8 (`iconv -f utf-16 -t utf-8`).", fatal=True)
    for magic, code, noun in _MAGIC:
        if head.startswith(magic):
            return BadRow(
                1,
                code,
                f"The file is {noun}.",
                "Unpack or convert it: JSON lines, CSV and Parquet are read, also in gzip, zstd, zip or tar.",
                fatal=True,
            )
    if head[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return BadRow(1, "type", "The file is a web page.", "Download the data itself.", fatal=True)
    if head.startswith(_LFS):
        said = "The file is a pointer of Git LFS: the data itself was not fetched."
        return BadRow(1, "type", said, "Run `git lfs pull` in its repository, and upload the file then.", fatal=True)
    return _badly_broken(head)


def _badly_broken(head: bytes) -> BadRow | None:
    """Why this is not one record a line, where that can be told before a line is read."""
    if b"\r" in head.rstrip() and b"\n" not in head:
        said = "The lines end with a carriage return alone, as on old Macs."
        return BadRow(1, "line_ends", said, "Save it with other line ends (`tr '\\r' '\\n'`).", fatal=True)
    if _LONE_BRACE.match(head):
        said = "The objects are written over several lines."
        fix = "Write each on a line of its own (`jq -c .`); of one object that holds all rows, write that list alone."
        return BadRow(1, "json_syntax", said, fix, fatal=True)
    return None


def _whole_lines(source: _Input) -> Iterator[Lines]:
    number, rest = 1, b""
    while chunk := source.read():
        end = chunk.rfind(b"\n") + 1
        if end:
            count = chunk.count(b"\n")
            yield Lines(number, count, b"".join((rest, memoryview(chunk)[:end])))
            number, rest = number + count, chunk[end:]
        else:
            rest += chunk
        if len(rest) > MAX_RECORD_BYTES:
            break  # the line has no end within its limit: whoever reads it says so
    if rest:
        yield Lines(number, 1, rest)


def _too_long(number: int) -> BadRow:
    return BadRow(number, "line_too_long", f"{_TOO_LONG}.", "Split the row, or put one row on each line.", fatal=True)


_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


class _Elements:
    """Cuts one array into the bytes of its elements without reading them: only brackets, commas and strings matter."""

    def __init__(self, source: _Input) -> None:
        self._source = source
        self._buffer = source.read()
        self._at = self._buffer.index(b"[") + 1
        self._number = 0
        self._newlines = self._buffer.count(b"\n", 0, self._at)

    def records(self) -> Iterator[Raw | BadRow]:
        try:
            yield from self._elements()
            self._nothing_more()
        except BadRow as bad:
            bad.fatal = True
            yield bad

    def _elements(self) -> Iterator[Raw]:
        while True:
            data, separator = self._next()
            if data.strip(_WHITESPACE):
                self._number += 1
                if len(data) > MAX_RECORD_BYTES:
                    raise _too_long(self._number)
                yield Raw(self._number, data)
            elif separator == b"," or self._number:
                raise BadRow(
                    self._number + 1, "json_syntax", "A comma of the array has no row beside it.", "Remove the extra comma."
                )
            if separator == b"]":
                return

    def _next(self) -> tuple[bytes, bytes]:
        """The bytes up to the comma or bracket that ends this element, and which of the two it was."""
        start = scanned = self._at
        depth = 0
        while True:
            for match in _TOKEN.finditer(self._buffer, scanned):
                token = match.group()
                if token == b'"':
                    break  # its end has not been read yet
                if depth == 0 and token in (b",", b"]"):
                    self._at = match.end()
                    return self._buffer[start : match.start()], token
                depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
                if depth > MAX_DEPTH:
                    raise too_deep(self._number + 1)
                if depth < 0:
                    raise self._cut("A bracket closes what was never opened")
                scanned = match.end()
            start, scanned = self._more(start, scanned)

    def _more(self, start: int, scanned: int) -> tuple[int, int]:
        """Read on, keeping only the element that is being cut. Returns where it and the scan stand now."""
        if len(self._buffer) - start > MAX_RECORD_BYTES:
            raise _too_long(self._number + 1)
        chunk = self._source.read()
        if not chunk:
            raise self._cut("The array has no end")
        self._newlines += self._buffer.count(b"\n", 0, start)
        self._buffer = self._buffer[start:] + chunk
        return 0, scanned - start

    def _cut(self, what: str) -> BadRow:
        line = self._newlines + self._buffer.count(b"\n") + 1
        return BadRow(self._number + 1, "json_syntax", f"{what} (line {line} of the file).", "Is the file cut off?")

    def _nothing_more(self) -> None:
        rest = self._buffer[self._at :]
        while not rest.strip(_WHITESPACE):
            rest = self._source.read()
            if not rest:
                return
        raise BadRow(1, "row_not_object", "Line 1 is a list, and more follows after it.", "Write one object a line.")
