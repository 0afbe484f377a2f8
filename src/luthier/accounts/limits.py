"""How often somebody may do something: counters of the `limits` library."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter


@dataclass(frozen=True)
class Retry:
    """Whether one more was allowed, and after how many seconds the next one is."""

    allowed: bool
    after_s: int


class Limiter:
    """Counts under a name and a key; a rule is text like `10/minute`. Safe to share between threads."""

    def __init__(self, storage: str = "memory://") -> None:
        self._window = MovingWindowRateLimiter(storage_from_string(storage))

    def hit(self, name: str, key: str, rule: str) -> Retry:
        """Count one. What is not allowed is not counted."""
        item = parse(rule)
        return self._retry(item, name, key, allowed=self._window.hit(item, name, key))

    def look(self, name: str, key: str, rule: str) -> Retry:
        """Whether one more would be allowed. Counts nothing."""
        item = parse(rule)
        return self._retry(item, name, key, allowed=self._window.test(item, name, key))

    def clear(self, name: str, key: str, rule: str) -> None:
        """Forget what was counted."""
        self._window.clear(parse(rule), name, key)

    def _retry(self, item: RateLimitItem, name: str, key: str, *, allowed: bool) -> Retry:
        reset = self._window.get_window_stats(item, name, key).reset_time
        return Retry(allowed, 0 if allowed else max(1, math.ceil(reset - time.time())))
