"""What a file of data is packed in, found by content: gzip, zstd, zip, tar, or tar in one of the first two.

One file of data comes out, as a stream, in constant memory. Whatever else a packed file can hold is refused with its reason:
several files of data, paths that lead elsewhere, links and devices, encryption, packing in packing, and bombs.
"""

from __future__ import annotations

import errno
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, Protocol

from luthier.datasets.examples import BadRow
from luthier.datasets.lines import Readable

MAX_RATIO = 100
"""Honest text packs 3 to 20 times, MNIST as CSV 8 times."""
MAX_MEMBERS = 1000
SLACK_BYTES = 1024 * 1024
"""Up to this size the ratio does not matter: a small file of equal rows packs well."""
_CHUNK = 1024 * 1024
_HEAD = 4096
_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", (b"PK\x03\x04", b"PK\x05\x06")
_DIRECTORY_BYTES = 1024 * MAX_MEMBERS
_MOST_NAME = 1024
_ASIDE = re.compile(r"(__MACOSX/.*|(.*/)?(\..*|read_?me(\.\w+)?|licen[cs]e(\.\w+)?|copying))", re.IGNORECASE)
"""Members that are no data."""
_DOCUMENTS = {
    "xl/workbook.xml": "an Excel workbook",
    "word/document.xml": "a Word document",
    "ppt/presentation.xml": "a presentation",
    "META-INF/manifest.xml": "an OpenDocument file",
}
"""What only documents hold."""


@dataclass(frozen=True)
class Limits:
    """How large a packed file is, and how large what is in it may be."""

    packed_bytes: int
    unpacked_bytes: int


@dataclass(frozen=True)
class Unpacked:
    """The bytes of the data, and what they were packed in, from outside in."""

    stream: Peeked
    containers: tuple[str, ...] = ()


class Peeked:
    """A stream whose first bytes can be looked at."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        head = b""
        while len(head) < _HEAD and (chunk := stream.read(_HEAD)):
            head += chunk
        self.head = head

    def read(self, size: int = -1, /) -> bytes:
        head, self.head = self.head, b""
        if 0 <= size < len(head):
            head, self.head = head[:size], head[size:]
        return head or self._stream.read(size)


def unpack(source: BinaryIO, limits: Limits) -> Unpacked:
    """The one file of data in `source`, which stands at its start. A file that is not packed comes out as it is.

    Raises: BadRow `archive`, `ratio`, `unpacked_size`, `member_path`, `member_type`, `encrypted`; so does reading the stream.
    """
    head = Peeked(source)
    if head.head.startswith(_ZIP):
        return _plain(_zipped(source, limits), ("zip",))
    if head.head.startswith((_GZIP, _ZSTD)):
        name, unpacker = ("gzip", _Gzip()) if head.head.startswith(_GZIP) else ("zstd", _Zstd())
        inner = Peeked(_Metered(_Unpacking(head, unpacker, name), limits))
        if _is_tar(inner.head):
            return _plain(_Tar(inner), (name, "tar"))
        return _plain(inner, (name,))
    if _is_tar(head.head):
        return _plain(_Tar(head), ("tar",))
    return Unpacked(head)


def is_packed(head: bytes) -> bool:
    """Whether a file that starts like this is packed in something."""
    return head.startswith((_GZIP, _ZSTD, *_ZIP)) or _is_tar(head)


def _plain(stream: Readable, containers: tuple[str, ...]) -> Unpacked:
    peeked = stream if isinstance(stream, Peeked) else Peeked(stream)
    if is_packed(peeked.head):
        raise _broken("What is packed is packed once more.", "Pack the data once.")
    return Unpacked(peeked, containers)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _broken(what: str, fix: str = "Pack the file anew, or upload it as it is.", code: str = "archive") -> BadRow:
    return BadRow(None, code, what, fix, fatal=True)


@contextmanager
def _told(noun: str) -> Generator[None]:
    """The many errors of unpacking as one that says what to do."""
    try:
        yield
    except (zlib.error, EOFError, zipfile.BadZipFile, tarfile.TarError, ValueError, OverflowError, NotImplementedError):
        raise _broken(f"The {noun} file is damaged or cut off.") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the start of the file
            raise
        raise _broken(f"The {noun} file is damaged or cut off.") from None


class _Metered:
    """Counts what comes out. Raises: BadRow `ratio`, `unpacked_size`."""

    def __init__(self, stream: Readable, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._size += len(data)
        check_size(self._size, self._limits)
        return data


def check_size(unpacked: int, limits: Limits) -> None:
    """Raises: BadRow where this is more than may come out of a packed file."""
    check_unpacked(unpacked, limits)
    if unpacked > max(SLACK_BYTES, MAX_RATIO * limits.packed_bytes):
        said = f"Unpacked, the file is more than {MAX_RATIO} times as large: that is no data to learn from."
        raise _broken(said, "Upload it unpacked, if it is.", "ratio")


def check_unpacked(unpacked: int, limits: Limits) -> None:
    """Raises: BadRow where this is more than is read, whatever it came from."""
    if unpacked > limits.unpacked_bytes:
        raise _broken(f"Unpacked, the file has more than {limits.unpacked_bytes:,} bytes.", "Split it.", "unpacked_size")


# -- gzip and zstd -----------------------------------------------------------------------------------------------------


class _Unpacker(Protocol):
    """One compressed stream, unpacked piece by piece."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


class _Zstd:
    def __init__(self) -> None:
        from backports import zstd  # imported here: few files need it

        self._error = zstd.ZstdError
        # A window of 128 MiB is what `zstd` itself unpacks without being asked to.
        self._frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def needs_input(self) -> bool:
        return self._frame.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        try:
            return self._frame.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from None


class _Unpacking:
    def __init__(self, source: Readable, unpacker: _Unpacker, name: str) -> None:
        self._source = source
        self._unpacker = unpacker
        self._name = name

    def read(self, size: int = -1, /) -> bytes:
        most = size if 0 < size < _CHUNK else _CHUNK
        with _told(self._name):
            while not self._unpacker.eof:
                packed = self._source.read(_CHUNK) if self._unpacker.needs_input else b""
                data = self._unpacker.decompress(packed, most)
                if data:
                    return data
                if not packed and self._unpacker.needs_input and not self._unpacker.eof:
                    raise EOFError
        rest = self._unpacker.unused_data + self._source.read(_CHUNK)
        if rest.strip(b"\0"):
            raise _broken(f"Something follows after the end of the {self._name} data.", "Pack all rows in one go, as one file.")
        return b""


# -- members -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    name: str
    mode: int
    """As in `os.stat`; 0 where the archive does not say."""
    plain: bool
    """A file, or a folder; nothing that only stands for another one."""
    folder: bool


def _is_data(member: _Member) -> bool:
    """Whether this is a file to learn from. Raises: BadRow for what has no place in an archive of data."""
    name = member.name
    if (
        not name
        or len(name) > _MOST_NAME
        or not name.isprintable()
        or "\\" in name
        or name.startswith("/")
        or name[1:2] == ":"
        or ".." in PurePosixPath(name).parts
    ):
        raise _broken("The name of a file in the archive leads out of it.", "Pack it with plain names.", "member_path")
    odd = stat.S_IFMT(member.mode) not in {0, stat.S_IFREG, stat.S_IFDIR} or member.mode & (stat.S_ISUID | stat.S_ISGID)
    if odd or not member.plain:
        raise _broken(
            "The archive holds something that is no plain file: a link, a device, or one that runs as another user.",
            "Pack the file of data alone.",
            "member_type",
        )
    return not member.folder and not _ASIDE.fullmatch(name)


def _too_many(count: int) -> BadRow:
    return _broken(f"The archive holds {count:,} files; one of data is read.", "Join them, or upload each for itself.")


def zipped_pair(source: BinaryIO, limits: Limits) -> tuple[Peeked, Peeked] | None:
    """The two files of data in a zip file, each unpacked where it is gzip; None for anything else, at whose start it is left.

    Raises: BadRow as `unpack`; so does reading the streams.
    """
    packed = source.read(4) in _ZIP
    data = _zip_data(source) if packed else None
    if data is None or len(data[1]) != 2:
        source.seek(0)
        return None
    archive, members = data
    with _told("zip"):
        one, other = (_ungzipped(_zip_stream(archive, member, limits), limits) for member in members)
    return one, other


def _ungzipped(stream: Readable, limits: Limits) -> Peeked:
    peeked = Peeked(stream)
    return Peeked(_Metered(_Unpacking(peeked, _Gzip(), "gzip"), limits)) if peeked.head.startswith(_GZIP) else peeked


def _zipped(source: BinaryIO, limits: Limits) -> Readable:
    archive, data = _zip_data(source)
    if len(data) != 1:
        raise _too_many(len(data))
    with _told("zip"):
        return _zip_stream(archive, data[0], limits)


def _zip_data(source: BinaryIO) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """A zip file, and its files of data."""
    source.seek(0)
    with _told("zip"):
        if _directory_bytes(source) > _DIRECTORY_BYTES:
            raise _broken(f"The zip file holds more than {MAX_MEMBERS:,} files.", "Pack the file of data alone.")
        archive = zipfile.ZipFile(source)
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise _too_many(len(members))
        _no_document({member.filename for member in members})
        if len({member.filename for member in members}) != len(members) or _overlap(members, archive.start_dir):
            raise _broken("Files in the zip file overlap, or one is there twice.")
        return archive, [member for member in members if _is_data(_zip_member(member))]


def _no_document(names: set[str]) -> None:
    """Raises: BadRow for what an office program wrote: it is a zip file, too."""
    noun = next((noun for name, noun in _DOCUMENTS.items() if name in names), None)
    if noun is not None:
        raise _broken(f"The file is {noun}.", "Save its table as CSV (in Excel: CSV UTF-8), and upload that.", "type")


def _zip_stream(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: Limits) -> Readable:
    if member.flag_bits & 0x41:
        raise _broken("The zip file is encrypted.", "Pack it without a password.", "encrypted")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise _broken("The zip file is packed by a method that is not read.", "Pack it with deflate, the ordinary one.")
    check_size(member.file_size, limits)
    return _Zip(archive.open(member))


def _zip_member(member: zipfile.ZipInfo) -> _Member:
    return _Member(member.orig_filename, member.external_attr >> 16, plain=True, folder=member.orig_filename.endswith("/"))


def _overlap(members: Sequence[zipfile.ZipInfo], directory: int) -> bool:
    starts = sorted((member.header_offset, member.header_offset + 30 + member.compress_size) for member in members)
    return any(end > after for (_, end), (after, _) in zip(starts, [*starts[1:], (directory, 0)], strict=True))


def _directory_bytes(source: BinaryIO) -> int:
    """How long the list of members is, told without reading it."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 65_557))
    tail = source.read(65_557)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise zipfile.BadZipFile
    listed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if listed == 0xFFFFFFFF:  # of a zip64 file, another record tells
        found = tail.rfind(b"PK\x06\x06")
        listed = int.from_bytes(tail[found + 40 : found + 48], "little") if found >= 0 else listed
    return listed


class _Zip:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        with _told("zip"):  # its checksum is compared at the end
            return self._stream.read(size if 0 < size < _CHUNK else _CHUNK)


class _Tar:
    """The one file of data in a tar stream. What else there is, is known at its end only."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._parts = self._data()

    def read(self, size: int = -1, /) -> bytes:
        del size
        return next(self._parts, b"")

    def _data(self) -> Iterator[bytes]:
        with _told("tar"):
            blocks: Any = _Blocks(self._source)
            archive = tarfile.open(fileobj=blocks, mode="r|", bufsize=512 * 128)  # noqa: SIM115  # it holds no descriptor
            members = found = 0
            for member in archive:
                members += 1
                if members > MAX_MEMBERS:
                    raise _too_many(members)
                if not _is_data(_tar_member(member)):
                    continue
                found += 1
                if found > 1:
                    raise _broken("The archive holds several files of data.", "Join them, or upload each for itself.")
                stream = archive.extractfile(member)
                while stream is not None and (chunk := stream.read(_CHUNK)):
                    yield chunk
            if not found:
                raise _too_many(0)
        # To the very end, where the checksum of what packs the tar stands.
        while rest := self._source.read(_CHUNK):
            if rest.strip(b"\0"):
                raise _broken("Something follows after the end of the tar data.")


class _Blocks:
    """What `tarfile` asks of a stream: all the bytes that it asked for."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0 and (part := self._source.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _tar_member(member: tarfile.TarInfo) -> _Member:
    plain = (member.isreg() and not member.issparse()) or member.isdir()
    return _Member(member.name, member.mode & 0o7777, plain=plain, folder=member.isdir())
