"""Counting in this process: a moving window for each rule and each caller, in constant time.

`limits` has one too; it starts a thread for each of its looks at old entries, which was a fifth of what a request took.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_LOOK_EVERY = 4096
"""Counts between two looks for callers who are gone."""


class Windows:
    """When each caller's requests came, as far as they count. Safe to share between threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._came: dict[tuple[str, ...], deque[float]] = {}
        self._lock = threading.Lock()
        self._counted = 0

    def hit(self, key: tuple[str, ...], most: int, seconds: float) -> tuple[bool, int, float]:
        """Count one, unless `most` came within the last `seconds`. Returns whether it was counted, how many are left, and in
        how many seconds there is room for one more than now."""
        now = self._monotonic()
        with self._lock:
            self._forget(now)
            came = self._came.setdefault(key, deque())
            # Each entry is the moment at which it counts no longer: windows of different length forget by the same rule.
            while came and came[0] <= now:
                came.popleft()
            counted = len(came) < most
            if counted:
                came.append(now + seconds)
            return counted, most - len(came), came[0] - now

    def look(self, key: tuple[str, ...], most: int) -> tuple[bool, int, float]:
        """As `hit`, for one that is not counted."""
        now = self._monotonic()
        with self._lock:
            came = [moment for moment in self._came.get(key, ()) if moment > now]
        return len(came) < most, most - len(came), came[0] - now if came else 0.0

    def clear(self, key: tuple[str, ...]) -> None:
        """Forget this caller."""
        with self._lock:
            self._came.pop(key, None)

    def _forget(self, now: float) -> None:
        self._counted += 1
        if self._counted % _LOOK_EVERY == 0:
            self._came = {key: came for key, came in self._came.items() if came and came[-1] > now}
