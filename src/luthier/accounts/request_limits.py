"""How many requests somebody may send: by user, by key, and by address where nobody says who they are."""

from __future__ import annotations

from collections.abc import Iterable

from limits import RateLimitItem, parse

from luthier.accounts.limits import Limiter, Standing
from luthier.accounts.rules import looks
from luthier.accounts.types import Actor
from luthier.errors import RateLimited


class RequestLimits:
    """Counts requests by the rules of this server. Safe to share between threads."""

    def __init__(self, limiter: Limiter, *, requests: str, changes: str, address: str) -> None:
        self._requests, self._changes, self._address = _rule(requests), _rule(changes), _rule(address)
        self._limiter = limiter

    @property
    def remote(self) -> bool:
        """Whether counting asks another machine, and so must not be done on the event loop."""
        return self._limiter.remote

    @property
    def degraded(self) -> bool:
        """Whether Redis should count, and does not answer."""
        return self._limiter.degraded

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
        standings = [(item, self._limiter.hit(item, name, who)) for item, name, who in rules]
        refused = [(item, standing) for item, standing in standings if not standing.allowed]
        if refused:
            item, worst = max(refused, key=lambda each: each[1].reset_s)
            raise RateLimited(worst.limit, within_s=item.get_expiry(), retry_after_s=worst.reset_s)
        return min((standing for _, standing in standings), key=lambda standing: standing.remaining, default=None)


def _rule(text: str) -> RateLimitItem | None:
    return parse(text) if text else None
