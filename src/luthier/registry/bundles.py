"""A download: one file, or many as one tar, that can be read from any place and is known to be whole before its first byte."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from luthier.errors import ArtifactCorrupt
from luthier.values import ModelFile

TAR = "application/x-tar"
ONE_FILE = "application/octet-stream"
_CHUNK = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_KEPT_S = 600
_MOST_KEPT = 1024
_SETTLED_NS = 2_000_000_000
"""A file written a moment ago may be written once more within one tick of the file system's clock: it is read again."""


@dataclass(frozen=True)
class Download:
    """What somebody takes with them."""

    name: str
    media_type: str
    size: int
    sha256: str
    stream: BinaryIO


@dataclass(frozen=True)
class _Part:
    """Bytes of our own, or an open file with its record."""

    size: int
    bytes: bytes = b""
    file: ModelFile | None = None
    stream: BinaryIO | None = None


class Bundle(io.RawIOBase):
    """Parts that follow each other, as one stream; closing it closes the files."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        super().__init__()
        self._parts = [part for part in parts if part.size]
        ends, starts = 0, [0]
        for part in self._parts:
            ends += part.size
            starts.append(ends)
        self._starts = starts
        self._all = [part.stream for part in parts if part.stream is not None]
        self._place = 0
        self.size = ends

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence] + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        """Fills the buffer but at the end. Raises: OSError where a file is shorter than its record says."""
        done = 0
        while done < len(buffer) and self._place < self.size:
            data = self._piece(len(buffer) - done)
            if not data:
                raise OSError("a stored file is shorter than its record says")
            buffer[done : done + len(data)] = data
            done += len(data)
            self._place += len(data)
        return done

    def _piece(self, most: int) -> bytes:
        """From one part, at the place."""
        number = bisect_right(self._starts, self._place) - 1
        part, within = self._parts[number], self._place - self._starts[number]
        most = min(most, part.size - within)
        if part.stream is None:
            return part.bytes[within : within + most]
        part.stream.seek(within)
        return part.stream.read(most)

    def close(self) -> None:
        for stream in self._all:
            stream.close()
        super().close()

    def digest(self, refuse: Callable[[ModelFile], ArtifactCorrupt]) -> str:
        """sha256 of all of it; each file is compared with its record on the way. Raises: what `refuse` makes of one."""
        whole = hashlib.sha256()
        for part in self._parts:
            whole.update(part.bytes)
            if part.stream is None or part.file is None:
                continue
            own, size = hashlib.sha256(), 0
            part.stream.seek(0)
            while chunk := part.stream.read(_CHUNK):
                own.update(chunk)
                whole.update(chunk)
                size += len(chunk)
            if (own.hexdigest(), size) != (part.file.sha256, part.file.bytes):
                raise refuse(part.file)
        return whole.hexdigest()

    def identity(self) -> tuple[object, ...] | None:
        """What stays the same while nobody writes to the files; None where the storage does not say, or was just written."""
        now, found = time.time_ns(), list[object]()
        for part in self._parts:
            if part.stream is None:
                found.append(part.bytes)
                continue
            try:
                facts = os.fstat(part.stream.fileno())
            except OSError:  # also io.UnsupportedOperation: no local file
                return None
            if now - facts.st_mtime_ns < _SETTLED_NS:
                return None
            found.append((facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
        return tuple(found)


class Seals:
    """sha256 of what was read through lately. A download that broke off goes on at once, and does not wait for gigabytes to
    be hashed again; ten minutes later they are."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._kept: dict[tuple[object, ...], tuple[float, str]] = {}

    def sealed(self, bundle: Bundle, refuse: Callable[[ModelFile], ArtifactCorrupt]) -> str:
        """sha256 of the bundle, all of whose files are as their records say. Raises: what `refuse` makes of one."""
        identity = bundle.identity()
        if identity is not None:
            with self._lock:
                until, known = self._kept.get(identity, (0.0, ""))
            if known and self._now_s() < until:
                return known
        digest = bundle.digest(refuse)
        if identity is not None and bundle.identity() == identity:
            with self._lock:
                while len(self._kept) >= _MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[identity] = (self._now_s() + _KEPT_S, digest)
        return digest


Open = Callable[[ModelFile], BinaryIO]
"""A stored file at its first byte, not looked at yet. Raises: ArtifactCorrupt where it is missing."""


def one_file(file: ModelFile, opened: Open) -> Bundle:
    """A single file."""
    return Bundle([_Part(file.bytes, file=file, stream=opened(file))])


def tar(folder: str, files: Sequence[ModelFile], opened: Open) -> Bundle:
    """All files below `folder/`, uncompressed: the same files are the same bytes, and any place of it can be found."""
    parts: list[_Part] = []
    with ExitStack() as opening:
        for file in files:
            header = tarfile.TarInfo(f"{folder}/{file.name}")
            header.size, header.mode = file.bytes, 0o644
            stream = opening.enter_context(opened(file))
            parts += [_ours(header.tobuf(tarfile.USTAR_FORMAT)), _Part(file.bytes, file=file, stream=stream)]
            parts.append(_ours(b"\0" * (-file.bytes % _BLOCK)))
        opening.pop_all()
    return Bundle([*parts, _ours(b"\0" * (2 * _BLOCK))])


def _ours(data: bytes) -> _Part:
    return _Part(len(data), bytes=data)
