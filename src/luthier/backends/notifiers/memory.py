"""A notifier that keeps what it was told: the fake of this seam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from luthier.seams import News, NotSendable, Reply


class MemoryNotifier:
    """`told` has all that was sent, in order. `replies` decides what becomes of an attempt; without it all is well."""

    def __init__(self, replies: Callable[[News, str], Reply] | None = None) -> None:
        self.told: list[tuple[News, str]] = []
        self._replies = replies or _all_well
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises: NotSendable, for what has not the form of an address."""
        if "://" not in address and "@" not in address:
            raise NotSendable("this is no address")

    def send(self, news: News, address: str, secrets: Sequence[str]) -> Reply:  # noqa: ARG002
        """Keep it."""
        with self._lock:
            self.told.append((news, address))
        return self._replies(news, address)


def _all_well(_news: News, _address: str) -> Reply:
    return Reply(200)
