"""How often somebody may do something: moving windows, counted in this process or in Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from limits import RateLimitItem
from limits.errors import ConfigurationError, StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from luthier.accounts.windows import Windows
from luthier.errors import SetupError

R = TypeVar("R")

_AGAIN_S = 10.0
_PATIENCE_S = 0.25


@dataclass(frozen=True)
class Standing:
    """Where somebody stands with a rule: whether one more was allowed, and in how many seconds there is room for another."""

    limit: int
    remaining: int
    reset_s: int
    allowed: bool = True


class Limiter:
    """Counts under a name and a key. Safe to share between threads.

    When Redis does not answer, each process counts for itself, and asks it again 10 s later: nobody is refused for that.
    """

    def __init__(self, redis_url: str = "", *, again_s: float = _AGAIN_S) -> None:
        self._near = Windows()
        self._far = MovingWindowRateLimiter(_redis(redis_url)) if redis_url else None
        self._far_after, self._again_s = 0.0, again_s

    @property
    def remote(self) -> bool:
        """Whether counting asks another machine, and so must not be done on the event loop."""
        return self._far is not None

    @property
    def degraded(self) -> bool:
        """Whether Redis should count, and does not answer. Asks it, where it answered before."""
        return self._far is not None and (self._far_after > time.monotonic() or not self._far.storage.check())

    def hit(self, rule: RateLimitItem, name: str, key: str) -> Standing:
        """Count one. What is not allowed is not counted."""
        found = self._asked(lambda far: _standing(far, rule, name, key, allowed=far.hit(rule, name, key)))
        return found or _near_standing(rule, self._near.hit((str(rule), name, key), rule.amount, rule.get_expiry()))

    def look(self, rule: RateLimitItem, name: str, key: str) -> Standing:
        """Whether one more would be allowed. Counts nothing."""
        found = self._asked(lambda far: _standing(far, rule, name, key, allowed=far.test(rule, name, key)))
        return found or _near_standing(rule, self._near.look((str(rule), name, key), rule.amount))

    def clear(self, rule: RateLimitItem, name: str, key: str) -> None:
        """Forget what was counted."""
        self._near.clear((str(rule), name, key))
        self._asked(lambda far: far.clear(rule, name, key))

    def _asked(self, ask: Callable[[MovingWindowRateLimiter], R]) -> R | None:
        """What Redis says; None where there is none, or none that answers."""
        if self._far is None or time.monotonic() < self._far_after:
            return None
        try:
            return ask(self._far)
        except StorageError:
            self._far_after = time.monotonic() + self._again_s
            return None


def _near_standing(rule: RateLimitItem, counted: tuple[bool, int, float]) -> Standing:
    allowed, remaining, reset_s = counted
    return Standing(rule.amount, remaining, max(1, math.ceil(reset_s)), allowed)


def _standing(window: MovingWindowRateLimiter, rule: RateLimitItem, name: str, key: str, *, allowed: bool) -> Standing:
    stats = window.get_window_stats(rule, name, key)
    return Standing(rule.amount, stats.remaining, max(1, math.ceil(stats.reset_time - time.time())), allowed)


def _redis(url: str) -> Storage:
    try:
        made = storage_from_string(url, wrap_exceptions=True, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S)
    except (ConfigurationError, ValueError, ImportError) as error:
        raise SetupError("LUTHIER_REDIS_URL cannot be used.", hint="`redis://host:6379/0`, and `pip install redis`.") from error
    if not isinstance(made, Storage):
        raise SetupError("LUTHIER_REDIS_URL cannot be used.", hint="`redis://host:6379/0`: not one for asyncio.")
    return made
