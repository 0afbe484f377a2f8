"""Notifications: events in the outbox, endpoints that want them, deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from luthier.notifications import outbox
from luthier.seams import Clock


class Notifications:
    """What a team is told, and where."""

    def __init__(self, now: Clock) -> None:
        self._now = now

    def publish(self, session: Session, tenant_id: str, kind: str, data: Mapping[str, Any]) -> str:
        """Write an event into the caller's transaction: it is told if that commits, and never otherwise. Returns its id."""
        return outbox.publish(session, tenant_id, kind, data, at=self._now())
