"""Refusals wait here for their row: equal ones within a minute are counted, so that a flood cannot fill the log."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

from luthier.accounts.deeds import Act

MINUTE = timedelta(minutes=1)
_MOST = 10_000


@dataclass
class Refusal:
    """Equal refusals so far: the facts of the first one, how many there were, and when the last one was."""

    act: Act
    outcome: str
    status: int | None
    code: str | None
    first: datetime
    last: datetime
    count: int = 1

    @property
    def kind(self) -> Hashable:
        """Refusals with the same kind are equal."""
        return (dataclasses.replace(self.act, request_id=None, on=()), self.status, self.code)


class Refusals:
    """What was refused and is not in the log yet. Safe to share between threads.

    The first of its kind goes out at the next `due`; those that follow within its minute go out as one row when it is over.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Refusal] = {}
        self._seen: dict[Hashable, datetime] = {}
        self._lock = threading.Lock()

    def add(self, refusal: Refusal) -> None:
        """Count it. Beyond 10,000 kinds at once (a flood from many addresses) the rest is one kind."""
        with self._lock:
            if refusal.kind not in self._waiting and len(self._waiting) >= _MOST:
                refusal = dataclasses.replace(refusal, act=Act("many", "many"), code=None)
            known = self._waiting.setdefault(refusal.kind, refusal)
            if known is not refusal:
                known.count += refusal.count
                known.last = max(known.last, refusal.last)

    def due(self, now: datetime, *, everything: bool = False) -> list[Refusal]:
        """Take those whose row is to be written now."""
        with self._lock:
            self._seen = {kind: began for kind, began in self._seen.items() if now < began + MINUTE}
            due = [kind for kind in self._waiting if everything or kind not in self._seen]
            taken = [self._waiting.pop(kind) for kind in due]
            self._seen |= dict.fromkeys(due, now)
            return taken
