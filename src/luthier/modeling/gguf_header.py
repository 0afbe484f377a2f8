"""Whether the counts in the head of a GGUF can be true: all that they count takes bytes, and these must be in the file.

A reader that believes them goes through 2^62 elements for as long as it may. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type."""
_LEAST = {**_SIZES, _STRING: 8, _ARRAY: 12}
_LEAST_KEY = 8 + 4 + 1
_LEAST_TENSOR = 8 + 4 + 4 + 8
_DEEPEST = 4
"""Arrays in arrays."""


def check(file: BinaryIO, size: int) -> None:
    """Go through the keys of a file of `size` bytes, from its start. Raises: ValueError where it cannot be a GGUF."""
    if file.read(4) != _MAGIC:
        raise ValueError("it does not begin as a GGUF")
    head = _Head(file, size)
    if head.number("<I") not in _VERSIONS:
        raise ValueError("it is a GGUF of another version, or of another byte order")
    tensors, keys = head.number("<Q"), head.number("<Q")
    head.room(tensors * _LEAST_TENSOR + keys * _LEAST_KEY)
    for _ in range(keys):
        head.pass_over(head.number("<Q"))
        head.value(head.number("<I"))


class _Head:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def room(self, needed: int) -> None:
        left = self._size - self._file.tell()
        if needed > left:
            raise ValueError(f"it counts what takes {needed:,} bytes, and {left:,} are left")

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        self.room(size)
        return struct.unpack(form, self._file.read(size))[0]

    def pass_over(self, size: int) -> None:
        self.room(size)
        self._file.seek(size, 1)

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self.pass_over(_SIZES[kind])
        elif kind == _STRING:
            self.pass_over(self.number("<Q"))
        elif kind == _ARRAY and depth < _DEEPEST:
            self._array(depth)
        else:
            raise ValueError(f"a value of it has the type {kind}")

    def _array(self, depth: int) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        self.room(count * _LEAST.get(kind, 1))
        if kind in _SIZES:
            self.pass_over(count * _SIZES[kind])
            return
        for _ in range(count):
            self.value(kind, depth + 1)
