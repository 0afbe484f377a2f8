"""What is kept of the rows of a file while they go by: the canonical rows, where each lies, and their hashes."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from luthier.datasets.row_hashes import Spill
from luthier.datasets.strict_json import dump

PLACE = struct.Struct("=QQ")
_MUCH = 64 * 1024
"""Bytes that are worth a thread."""
_WAITING = 4
"""Parts of about a MiB that wait to be written."""


@dataclass(frozen=True, slots=True)
class Keepsakes:
    """What is kept of a part of the file."""

    hashes: bytes
    """Of all rows that can be used, whether they are kept or not."""
    rows: bytes | bytearray | memoryview
    lines: array[int]
    """Of each of these rows."""
    sizes: array[int]
    dropped: bytes = b""


class _Behind:
    """Writes and hashes what it is given, in order, in two threads beside the one that gives it: neither of them needs Python."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._threads = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))
        self._left: deque[Future[object]] = deque()

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes; the caller may use their memory again. Raises: OSError, of earlier ones, too."""
        if len(data) <= _MUCH and not self._left:
            self._file.write(data)
            self.digest.update(data)
            return
        mine = bytes(data)
        for thread, work in zip(self._threads, (self._file.write, self.digest.update), strict=True):
            self._left.append(thread.submit(work, mine))
        self._settle(2 * _WAITING)

    def close(self) -> None:
        """All is written. Raises: OSError."""
        try:
            self._settle(0)
        finally:
            for thread in self._threads:
                thread.shutdown()
            self._file.close()

    def _settle(self, most: int) -> None:
        while len(self._left) > most:
            self._left.popleft().result()


class Kept:
    """Writes `rows`, and into the folder `side` an index of them and their sorted hashes."""

    def __init__(self, rows: Path, side: Path) -> None:
        self.rows_path, self.side = rows, side
        self._rows = _Behind(rows.open("wb"))
        self._index = (side / "index").open("wb")
        self._spill = Spill(side)
        self._dropped = (side / "dropped").open("wb")
        self._offset = 0
        self._sha256: str | None = None

    @property
    def hashes_path(self) -> Path:
        return self.side / "hashes"

    @property
    def sha256(self) -> str:
        """Of the rows, once all are written."""
        return self._sha256 or self._rows.digest.hexdigest()

    def add(self, some: Keepsakes) -> None:
        """The next rows of the file."""
        self._spill.add(some.hashes)
        self._dropped.write(some.dropped)
        self._rows.add(some.rows)
        places = array("Q", bytes(PLACE.size * len(some.lines)))
        starts = array("Q", accumulate(some.sizes, initial=self._offset))
        self._offset = starts.pop()
        places[0::2], places[1::2] = some.lines, starts
        self._index.write(places)

    def drop(self, line: int, code: str, message: str) -> None:
        """A row that is left out, as was asked."""
        self._dropped.write(dropped(line, code, message))

    def close(self) -> None:
        """All is written; the hashes are sorted now."""
        self._rows.close()
        self._index.close()
        self._spill.close(self.hashes_path)

    def remove(self, lines: Sequence[int]) -> None:
        """Take these lines out again: what is left is `rows`, without index and hashes of its own."""
        unwanted, digest = iter(sorted(lines)), hashlib.sha256()
        left, next_one = self.side / "left", next(unwanted, None)
        with self.rows_path.open("rb") as rows, left.open("wb") as file:
            for (line, _), row in zip(places(self.side / "index"), rows, strict=True):
                if line == next_one:
                    next_one = next(unwanted, None)
                else:
                    file.write(row)
                    digest.update(row)
        left.replace(self.rows_path)
        self._sha256 = digest.hexdigest()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._rows, self._index, self._dropped):
            file.close()


def dropped(line: int | None, code: str, message: str) -> bytes:
    """A row that is left out, as it is listed."""
    return dump({"line": line, "code": code, "message": message}) + b"\n"


def places(index: Path, first: int = 0) -> Iterator[tuple[int, int]]:
    """Line and place in `rows` of each row that was kept, from the n-th on."""
    with index.open("rb") as file:
        file.seek(first * PLACE.size)
        while block := file.read(PLACE.size * 4096):
            yield from PLACE.iter_unpack(block)
