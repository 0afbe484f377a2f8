"""The outbox: what happened is written down in the transaction in which it happens, and is told afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier import ids
from luthier.database import Row, TenantOwned, UtcTime, insert, to_ms


class EventRow(TenantOwned, Row):
    """Something that happened. `spread_at` is when it was given to the endpoints that want it."""

    __tablename__ = "outbox"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    data: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    spread_at: Mapped[datetime | None] = mapped_column(UtcTime, index=True)


def publish(session: Session, tenant_id: str, kind: str, data: Mapping[str, Any], *, at: datetime) -> str:
    """Write an event into the caller's transaction: it is told if that commits, and never otherwise. Returns its id.

    Costs one row, whoever listens; nothing is sent from here.
    """
    insert(session, row := event(tenant_id, kind, data, at=at))
    return row.id


def tenants_since(session: Session, since: datetime) -> set[str]:
    """Whom something happened to from that time on, by the ids of events, which are in the order of time."""
    first = ids.new(ids.EVENT, at_ms=to_ms(since))
    return set(session.scalars(select(EventRow.tenant_id).where(EventRow.id >= first).distinct()))


def event(tenant_id: str, kind: str, data: Mapping[str, Any], *, at: datetime) -> EventRow:
    """A row that nobody was given yet."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return EventRow(id=ids.new(ids.EVENT), tenant_id=tenant_id, kind=kind, data=text, created_at=at, spread_at=None)
