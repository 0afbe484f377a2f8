"""How many requests somebody may send: by user, by key, and by address where nobody says who they are."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.errors import ConfigurationError, StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from luthier.accounts.rules import looks
from luthier.accounts.types import Actor
from luthier.accounts.windows import Windows
from luthier.errors import RateLimited, SetupError

_AGAIN_S = 10.0
_PATIENCE_S = 0.25


@dataclass(frozen=True)
class Standing:
    """Where somebody stands with the rule that is nearest to its end."""

    limit: int
    remaining: int
    reset_s: int
    allowed: bool = True


class RequestLimits:
    """Counts requests in moving windows, in this process or in Redis. Safe to share between threads.

    When Redis does not answer, each process counts for itself, and asks it again 10 s later: nobody is refused for that.
    """

    def __init__(self, *, requests: str, changes: str, address: str, redis_url: str = "", again_s: float = _AGAIN_S) -> None:
        self._requests, self._changes, self._address = _rule(requests), _rule(changes), _rule(address)
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

    def admit(self, actor: Actor, method: str, path: str = "") -> Standing | None:
        """Count a request of somebody who is known. None where there is no rule. Raises: RateLimited."""
        rules = [(self._requests, "user", actor.user_id), (self._requests, "key", actor.key_id)]
        if not looks(method, path):
            rules.append((self._changes, "changes", actor.user_id))
        return self._admitted((item, name, who) for item, name, who in rules if item is not None and who is not None)

    def admit_address(self, address: str | None) -> Standing | None:
        """Count a request of somebody who is not known, or who was refused. Raises: RateLimited."""
        if self._address is None or address is None:
            return None
        return self._admitted([(self._address, "address", address)])

    def _admitted(self, rules: Iterable[tuple[RateLimitItem, str, str]]) -> Standing | None:
        standings = [self._count(*rule) for rule in rules]
        refused = [standing for standing in standings if not standing.allowed]
        if refused:
            worst = max(refused, key=lambda standing: standing.reset_s)
            raise RateLimited(worst.limit, retry_after_s=worst.reset_s)
        return min(standings, key=lambda standing: standing.remaining, default=None)

    def _count(self, item: RateLimitItem, name: str, who: str) -> Standing:
        if self._far is not None and time.monotonic() >= self._far_after:
            try:
                return _counted(self._far, item, name, who)
            except StorageError:
                self._far_after = time.monotonic() + self._again_s
        allowed, remaining, reset_s = self._near.hit((str(item), name, who), item.amount, item.get_expiry())
        return Standing(item.amount, remaining, max(1, math.ceil(reset_s)), allowed)


def _counted(window: MovingWindowRateLimiter, item: RateLimitItem, name: str, who: str) -> Standing:
    allowed = window.hit(item, name, who)
    stats = window.get_window_stats(item, name, who)
    return Standing(item.amount, stats.remaining, max(1, math.ceil(stats.reset_time - time.time())), allowed)


def _rule(text: str) -> RateLimitItem | None:
    return parse(text) if text else None


def _redis(url: str) -> Storage:
    try:
        made = storage_from_string(url, wrap_exceptions=True, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S)
    except (ConfigurationError, ValueError, ImportError) as error:
        raise SetupError("LUTHIER_REDIS_URL cannot be used.", hint="`redis://host:6379/0`, and `pip install redis`.") from error
    if not isinstance(made, Storage):
        raise SetupError("LUTHIER_REDIS_URL cannot be used.", hint="`redis://host:6379/0`: not one for asyncio.")
    return made
