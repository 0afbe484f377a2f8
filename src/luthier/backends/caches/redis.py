"""Answers kept in Redis: several servers share them, and they outlive a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from luthier.errors import SetupError

if TYPE_CHECKING:
    from redis import Redis

_PREFIX = "luthier:answers:"
_PATIENCE_S = 0.25
_AGAIN_S = 10.0


class RedisCache:
    """Implements `seams.Cache`. Redis itself forgets what is too old, and, by its own `maxmemory-policy`, what is too much.

    When it does not answer, nothing is kept and nothing found, and it is asked again 10 s later: no answer waits for that.
    `seconds` is a clock that only goes forward.
    """

    remote = True

    def __init__(self, client: Redis, keep_s: float, seconds: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._keep_ms = max(1, int(keep_s * 1000))
        self._seconds = seconds
        self._after = 0.0

    def get(self, key: str) -> bytes | None:
        """What was put under this key, if it is still there."""
        found = self._asked(lambda: self._client.get(_PREFIX + key))
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Keep it for a while; whatever was there before is replaced."""
        self._asked(lambda: self._client.set(_PREFIX + key, value, px=self._keep_ms))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        from redis.exceptions import RedisError

        if self._seconds() < self._after:
            return None
        try:
            return ask()
        except (RedisError, OSError):
            self._after = self._seconds() + _AGAIN_S
            return None


def connected(url: str, keep_s: float, patience_s: float = _PATIENCE_S) -> RedisCache:
    """On the server of this URL, which is first asked when there is something to ask. Raises: SetupError."""
    try:
        from redis import Redis

        client = Redis.from_url(url, socket_timeout=patience_s, socket_connect_timeout=patience_s)
    except (ImportError, ValueError) as error:
        raise SetupError("LUTHIER_REDIS_URL cannot be used.", hint="`redis://host:6379/0`, and `pip install redis`.") from error
    return RedisCache(client, keep_s)
