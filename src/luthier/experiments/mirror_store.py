"""What is to be told to a tracker, and what it has: a row a job, taken by lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Text, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime
from luthier.notifications.outbox import EventRow


class MirrorRow(TenantOwned, Row):
    """A job, and the version that it made. It waits to be told while `next_at` is set."""

    __tablename__ = "mirror"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str | None] = mapped_column(index=True)
    next_at: Mapped[datetime | None] = mapped_column(UtcTime, index=True)
    leased_until: Mapped[datetime | None] = mapped_column(UtcTime)
    changes: Mapped[int]
    """Counts what happened to it: what happens while it is told is told again."""
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text)
    mirrored_at: Mapped[datetime | None] = mapped_column(UtcTime)


def by_job(session: Session, job_id: str) -> MirrorRow | None:
    return session.scalar(select(MirrorRow).where(MirrorRow.job_id == job_id))


def by_run(session: Session, run_id: str) -> MirrorRow | None:
    return session.scalar(select(MirrorRow).where(MirrorRow.run_id == run_id))


def due(session: Session, now: datetime, most: int) -> Sequence[MirrorRow]:
    """What waits and is held by nobody, the longest first."""
    free = or_(MirrorRow.leased_until.is_(None), MirrorRow.leased_until <= now)
    query = select(MirrorRow).where(MirrorRow.next_at <= now, free)
    return session.scalars(query.order_by(MirrorRow.next_at, MirrorRow.job_id).limit(most)).all()


def events_after(session: Session, event_id: str, most: int) -> Sequence[EventRow]:
    """What happened since, the oldest first."""
    return session.scalars(select(EventRow).where(EventRow.id > event_id).order_by(EventRow.id).limit(most)).all()


def known(session: Session, job_ids: Iterable[str]) -> dict[str, MirrorRow]:
    """Those of these jobs that have a row."""
    return {row.job_id: row for row in session.scalars(select(MirrorRow).where(MirrorRow.job_id.in_(list(job_ids))))}
