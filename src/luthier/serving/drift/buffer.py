"""What stands in the way of a request: one look into a dict, one random number, and for those that are sampled one append."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from luthier.registry.types import Model
from luthier.seams import Clock
from luthier.serving.drift.observing import Asked

_MOST_WAITING = 4_096
"""What comes faster than it is written down pushes out what came first."""


class Seen(NamedTuple):
    """A sampled request."""

    tenant_id: str
    model_id: str
    name: str
    at: datetime
    asked: Asked


class Observer:
    """Samples requests into a bounded buffer. Safe to share between threads. `share` is of models whose teams said nothing."""

    def __init__(self, share: float, now: Clock) -> None:
        self.share = share
        self._now = now
        self._shares: Mapping[tuple[str, str], float] = {}
        self._seen: deque[Seen] = deque(maxlen=_MOST_WAITING)
        self._chance = random.Random()

    def observe(self, tenant_id: str, model: Model, asked: Asked) -> None:
        """Perhaps keep it for the next round. Never waits, never raises."""
        share = self.share_of(tenant_id, model.name)
        if share and (share >= 1 or self._chance.random() < share):
            self._seen.append(Seen(tenant_id, model.id, model.name, self._now(), asked))

    def watches(self, tenant_id: str) -> bool:
        """Whether anything of this team may be sampled."""
        return bool(self.share) or any(team == tenant_id for team, _ in self._shares)

    def share_of(self, tenant_id: str, name: str) -> float:
        return self._shares.get((tenant_id, name), self.share)

    def learn(self, shares: Mapping[tuple[str, str], float]) -> None:
        """What teams said; all of it, in the place of what was known."""
        self._shares = shares

    def take(self) -> list[Seen]:
        """Everything that was sampled and that still may be; the buffer is empty then."""
        taken: list[Seen] = []
        while self._seen:
            taken.append(self._seen.popleft())
        return [seen for seen in taken if self.share_of(seen.tenant_id, seen.name)]
