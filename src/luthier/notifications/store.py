"""Tables of endpoints and deliveries, and the only SQL on them and on the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint, delete, exists, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from luthier.database import Row, TenantOwned, UtcTime
from luthier.notifications.outbox import EventRow
from luthier.notifications.types import DeliveryState

PLATFORM = "platform"
"""The tenant of endpoints that the settings name: they hear of every team, and no team sees them."""


class EndpointRow(TenantOwned, Row):
    """Where a team is told. `locked` holds its address and its secret; `shown` is what people see of the address."""

    __tablename__ = "endpoints"
    __table_args__ = (UniqueConstraint("tenant_id", "address_sha256"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str]
    shown: Mapped[str]
    address_sha256: Mapped[str]
    locked: Mapped[str]
    kinds: Mapped[str]
    description: Mapped[str | None]
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(default=0)
    rests_until: Mapped[datetime | None] = mapped_column(UtcTime)
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class DeliveryRow(TenantOwned, Row):
    """One event on its way to one endpoint. Whoever sends it has it until `leased_until`."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index("deliveries_in_line", "endpoint_id", "state", "next_at"),
        Index("deliveries_leased", "leased_until"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str]
    endpoint_id: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime | None] = mapped_column(UtcTime)
    leased_until: Mapped[datetime | None] = mapped_column(UtcTime)
    owner: Mapped[str | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcTime)


def endpoint(session: Session, endpoint_id: str) -> EndpointRow | None:
    return session.scalar(select(EndpointRow).where(EndpointRow.id == endpoint_id))


def endpoints(session: Session) -> Sequence[EndpointRow]:
    return session.scalars(select(EndpointRow).order_by(EndpointRow.id.desc())).all()


def has_address(session: Session, address_sha256: str) -> bool:
    return session.scalar(select(EndpointRow.id).where(EndpointRow.address_sha256 == address_sha256)) is not None


def remove(session: Session, row: EndpointRow) -> None:
    """The endpoint and its deliveries."""
    session.execute(delete(DeliveryRow).where(DeliveryRow.endpoint_id == row.id))
    session.delete(row)


def deliveries(endpoint_id: str) -> Any:
    """The query of a list."""
    return select(DeliveryRow).where(DeliveryRow.endpoint_id == endpoint_id)


def unspread(session: Session, most: int) -> Sequence[EventRow]:
    """Events that no endpoint was given yet, the oldest first."""
    return session.scalars(select(EventRow).where(EventRow.spread_at.is_(None)).order_by(EventRow.id).limit(most)).all()


def spread(session: Session, event_ids: Sequence[str], at: datetime) -> set[str]:
    """Note that these events are given to their endpoints now. Returns those that nobody gave them before."""
    query = update(EventRow).where(EventRow.id.in_(event_ids), EventRow.spread_at.is_(None)).values(spread_at=at)
    found = session.execute(query.returning(EventRow.id), execution_options={"synchronize_session": False})
    return {row[0] for row in found}


def listening(session: Session, tenant_ids: set[str]) -> Sequence[EndpointRow]:
    """Endpoints that are told of these teams' events."""
    query = select(EndpointRow).where(EndpointRow.enabled, EndpointRow.tenant_id.in_([*tenant_ids, PLATFORM]))
    return session.scalars(query.order_by(EndpointRow.id)).all()


def ready(session: Session, now: datetime, most: int, *, failing: bool | None = None) -> Sequence[EndpointRow]:
    """Endpoints with something to be sent now that nobody sends to; only those that failed last, or did not, if asked."""
    due, held = aliased(DeliveryRow), aliased(DeliveryRow)
    waits = exists().where(due.endpoint_id == EndpointRow.id, due.state == DeliveryState.WAITING, due.next_at <= now)
    busy = exists().where(held.endpoint_id == EndpointRow.id, held.leased_until > now)
    rested = or_(EndpointRow.rests_until.is_(None), EndpointRow.rests_until <= now)
    # In any order: with more of them than are taken at once, none is always the last.
    query = select(EndpointRow).where(EndpointRow.enabled, rested, waits, ~busy).order_by(func.random()).limit(most)
    if failing is not None:
        query = query.where(EndpointRow.failures > 0 if failing else EndpointRow.failures == 0)
    return session.scalars(query).all()


def due(session: Session, endpoint_id: str, now: datetime, most: int) -> Sequence[DeliveryRow]:
    """What is to be sent to an endpoint now, the oldest first."""
    query = deliveries(endpoint_id).where(DeliveryRow.state == DeliveryState.WAITING, DeliveryRow.next_at <= now)
    return session.scalars(query.order_by(DeliveryRow.next_at, DeliveryRow.id).limit(most)).all()


def held(session: Session, delivery_id: str, owner: str) -> DeliveryRow | None:
    """A delivery, if `owner` still has it."""
    query = select(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.owner == owner)
    return session.scalar(query.where(DeliveryRow.state == DeliveryState.WAITING))


def give_back(session: Session, owner: str) -> None:
    """Let go of whatever this owner has not sent."""
    query = update(DeliveryRow).where(DeliveryRow.owner == owner, DeliveryRow.state == DeliveryState.WAITING)
    session.execute(query.values(owner=None, leased_until=None))


def drop_waiting(session: Session, endpoint_id: str, why: str) -> None:
    """Nothing that waits for this endpoint is sent any more."""
    query = update(DeliveryRow).where(DeliveryRow.endpoint_id == endpoint_id, DeliveryRow.state == DeliveryState.WAITING)
    session.execute(query.values(state=DeliveryState.DEAD, next_at=None, leased_until=None, owner=None, last_error=why))


def event(session: Session, event_id: str) -> EventRow | None:
    return session.scalar(select(EventRow).where(EventRow.id == event_id))


def forget(session: Session, before: datetime) -> None:
    """Events and deliveries of long ago."""
    session.execute(delete(DeliveryRow).where(DeliveryRow.created_at < before))
    session.execute(delete(EventRow).where(EventRow.spread_at < before))
