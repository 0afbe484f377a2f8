"""Numbers that lie on disk: appended to a file, and read from it through the memory map.

The file has no name. It is gone with the last who reads it, however the process ends; and what is in memory of it are pages
that the system takes back when it needs them.
"""

from __future__ import annotations

import mmap
import weakref
from array import array
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Generic, Literal, TypeVar, overload

_BLOCK = 1 << 16
"""Numbers that wait in memory for those with which they are written."""

N = TypeVar("N", int, float)


class Column(Generic[N]):
    """A long list of numbers of one type, by its code in `array`: in the order and the bytes of this machine."""

    @overload
    def __init__(self: Column[int], code: Literal["i", "q"], folder: Path | None = None) -> None: ...
    @overload
    def __init__(self: Column[float], code: Literal["d"], folder: Path | None = None) -> None: ...
    def __init__(self, code: Literal["i", "q", "d"], folder: Path | None = None) -> None:
        """folder: where the file lies; by default where temporary files do. Raises: OSError."""
        self.code: Literal["i", "q", "d"] = code
        self._file: IO[bytes] | None = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # open for as long as this is read
        weakref.finalize(self, self._file.close)
        self._waiting: array[N] = self._none()
        self._count = 0
        self._size = self._waiting.itemsize
        self._map: mmap.mmap | None = None
        self._at = 0

    @classmethod
    def stored(cls, code: Literal["i", "q", "d"], entry: mmap.mmap, at: int, count: int) -> Column[N]:
        """Numbers that lie in a map already, from the byte `at` on. They can only be read."""
        column = cls.__new__(cls)
        column.code, column._map, column._at, column._count, column._file = code, entry, at, count, None
        column._waiting = column._none()
        column._size = column._waiting.itemsize
        return column

    @property
    def bytes(self) -> int:
        return self._count * self._size

    def __len__(self) -> int:
        return self._count

    def append(self, number: N) -> None:
        self.extend((number,))

    def extend(self, numbers: Iterable[N]) -> None:
        """Raises: OSError, e.g. on a full disk."""
        before = len(self._waiting)
        if isinstance(numbers, array):
            self._waiting.extend(numbers)
        else:
            self._waiting.fromlist(numbers if isinstance(numbers, list) else list(numbers))  # twice as fast as `extend`
        self._count += len(self._waiting) - before
        if len(self._waiting) >= _BLOCK:
            self._write()

    def __getitem__(self, place: int) -> N:
        return self.part(place, place + 1)[0]

    def part(self, start: int, end: int) -> array[N]:
        """A copy of some."""
        found = self._none()
        found.frombytes(self._mapped()[self._at + start * self._size : self._at + end * self._size])
        return found

    def soon(self, start: int, end: int) -> None:
        """Have the system read this part from the disk, if it is no longer in memory, while something else is computed."""
        self._mapped()
        if self._map is not None and start < end:
            begin = (self._at + start * self._size) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, begin, self._at + end * self._size - begin)

    def _none(self) -> array[N]:
        return array(self.code)  # pyright: ignore[reportReturnType, reportCallIssue, reportArgumentType]  # the code says which

    def _mapped(self) -> mmap.mmap | bytes:
        if self._waiting:
            self._write()
        if self._map is None and self._file is not None and self._count:  # an empty file cannot be mapped
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map or b""

    def _write(self) -> None:
        if self._file is None:
            raise ValueError("these numbers can only be read")
        left = memoryview(self._waiting).cast("B")
        while left:
            left = left[self._file.write(left) :]
        self._waiting = self._none()
        self._map = None
