"""Answers kept in this process: the longest unasked leave first, and all of them after a while."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_ENTRY_BYTES = 200
"""About what an entry takes beside its key and value."""


class MemoryCache:
    """Implements `seams.Cache`. `most_bytes` 0 keeps nothing. `seconds` is a clock that only goes forward."""

    remote = False

    def __init__(self, most_bytes: int, keep_s: float, seconds: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._keep_s = keep_s
        self._seconds = seconds
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put under this key, if it is still there."""
        with self._lock:
            until, value = self._kept.get(key, (-math.inf, b""))
            if until <= self._seconds():
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return value

    def put(self, key: str, value: bytes) -> None:
        """Keep it for a while; whatever was there before is replaced."""
        with self._lock:
            self._drop(key)
            self._kept[key] = (self._seconds() + self._keep_s, value)
            self._bytes += _size(key, value)
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= _size(key, before[1])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES
