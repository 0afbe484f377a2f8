"""Turns: who came first goes first.

SQLite has one writer, and whoever waits for it asks again and again, ever more rarely: under load some wait for seconds while
those who came later get in. In one process nobody has to ask.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    """A lock that is handed over in the order of arrival."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._waiting)

    @contextmanager
    def taken(self, patience_s: float) -> Generator[None]:
        """Hold it inside the block. Raises: TimeoutError where nobody hands it over in time."""
        with self._lock:
            mine = threading.Lock() if self._taken else None
            self._taken = True
            if mine is not None:
                mine.acquire()
                self._waiting.append(mine)
        if mine is not None and not mine.acquire(timeout=patience_s) and self._left(mine):
            raise TimeoutError
        try:
            yield
        finally:
            self._hand_over()

    def _left(self, mine: threading.Lock) -> bool:
        """Wait no longer; False where the turn has come in this very moment."""
        with self._lock:
            if mine not in self._waiting:
                return False
            self._waiting.remove(mine)
            return True

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
