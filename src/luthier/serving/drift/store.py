"""Tables of what is watched, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Index, LargeBinary, Select, Text, delete, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime


class WatchRow(TenantOwned, Row):
    """How many of a model's requests its team wants to have sampled."""

    __tablename__ = "drift_watches"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    share: Mapped[float]
    updated_at: Mapped[datetime] = mapped_column(UtcTime)


class ReferenceRow(TenantOwned, Row):
    """What a version was trained or evaluated on, or why that cannot be said. Vectors are of its texts, in their order."""

    __tablename__ = "drift_references"
    model_id: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[str | None] = mapped_column(Text)
    why: Mapped[str | None]
    embedder: Mapped[str | None]
    vectors: Mapped[bytes | None] = mapped_column(LargeBinary)
    made_at: Mapped[datetime] = mapped_column(UtcTime)


_WAITING = text("judged = 0")


class SampleRow(TenantOwned, Row):
    """What is kept of one request, for a while."""

    __tablename__ = "drift_samples"
    __table_args__ = (Index("ix_drift_samples_waiting", "model_id", sqlite_where=_WAITING, postgresql_where=_WAITING),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    at: Mapped[datetime] = mapped_column(UtcTime, index=True)
    data: Mapped[str] = mapped_column(Text)
    judged: Mapped[int]


class WindowRow(TenantOwned, Row):
    """Requests that were compared with the reference, once."""

    __tablename__ = "drift_windows"
    model_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[str] = mapped_column(Text)


class Waiting(NamedTuple):
    """Samples of a version that were not judged yet."""

    tenant_id: str
    model_id: str
    name: str
    samples: int
    opened_at: datetime


def shares(session: Session) -> dict[tuple[str, str], float]:
    """By team and name, what the teams of this session said."""
    return {(row.tenant_id, row.name): row.share for row in session.scalars(select(WatchRow))}


def set_share(session: Session, tenant_id: str, name: str, share: float | None, at: datetime) -> None:
    """None: the team says nothing any more."""
    if share is None:
        session.execute(delete(WatchRow).where(WatchRow.name == name))
    else:
        session.merge(WatchRow(tenant_id=tenant_id, name=name, share=share, updated_at=at))


def waiting(session: Session) -> list[Waiting]:
    """Of every version that has some."""
    columns = (SampleRow.tenant_id, SampleRow.model_id, SampleRow.name)
    query = select(*columns, func.count(), func.min(SampleRow.at)).where(SampleRow.judged == 0).group_by(*columns)
    return [Waiting(*row) for row in session.execute(query)]


def unjudged(session: Session, model_id: str, limit: int) -> list[SampleRow]:
    """The oldest ones."""
    query = select(SampleRow).where(SampleRow.model_id == model_id, SampleRow.judged == 0).order_by(SampleRow.id)
    return list(session.scalars(query.limit(limit)))


def still_waiting(session: Session, sample_ids: Sequence[int]) -> int:
    """How many of these were not judged yet."""
    query = select(func.count()).select_from(SampleRow).where(SampleRow.id.in_(sample_ids), SampleRow.judged == 0)
    return session.scalar(query) or 0


def judge(session: Session, sample_ids: Sequence[int]) -> None:
    session.execute(update(SampleRow).where(SampleRow.id.in_(sample_ids)).values(judged=1))


def newest_samples(session: Session, model_id: str, limit: int) -> list[SampleRow]:
    query = select(SampleRow).where(SampleRow.model_id == model_id).order_by(SampleRow.id.desc())
    return list(session.scalars(query.limit(limit)))


def windows(session: Session, model_id: str, limit: int) -> list[WindowRow]:
    """Newest first."""
    query = select(WindowRow).where(WindowRow.model_id == model_id).order_by(WindowRow.number.desc())
    return list(session.scalars(query.limit(limit)))


def watched_models(session: Session) -> list[str]:
    """Ids of all versions of which something is kept."""
    sampled = set(session.scalars(select(SampleRow.model_id).distinct()))
    return sorted(sampled | set(session.scalars(select(WindowRow.model_id).distinct())), reverse=True)


def forget_samples(session: Session, name: str) -> None:
    session.execute(delete(SampleRow).where(SampleRow.name == name))


def forget_model(session: Session, model_id: str) -> None:
    """Everything that is kept of a version."""
    for table in (SampleRow, WindowRow, ReferenceRow):
        session.execute(delete(table).where(table.model_id == model_id))


def has_too_much(session: Session, since: datetime, most: int, most_windows: int) -> bool:
    """Whether `keep` would remove anything."""
    old = select(SampleRow.id).where(SampleRow.at < since).limit(1)
    return any(session.scalar(query) is not None for query in (old, _crowded(SampleRow, most), _crowded(WindowRow, most_windows)))


def keep(session: Session, since: datetime, most: int, most_windows: int) -> None:
    """Remove samples from before `since`, and of each version all but the newest samples and windows."""
    session.execute(delete(SampleRow).where(SampleRow.at < since))
    for model_id in list(session.scalars(_crowded(SampleRow, most))):
        newest = select(SampleRow.id).where(SampleRow.model_id == model_id).order_by(SampleRow.id.desc()).limit(most)
        session.execute(delete(SampleRow).where(SampleRow.model_id == model_id, SampleRow.id.not_in(newest)))
    for model_id in list(session.scalars(_crowded(WindowRow, most_windows))):
        last = session.scalar(select(func.max(WindowRow.number)).where(WindowRow.model_id == model_id)) or 0
        session.execute(delete(WindowRow).where(WindowRow.model_id == model_id, WindowRow.number <= last - most_windows))


def _crowded(table: type[SampleRow] | type[WindowRow], most: int) -> Select[str]:
    return select(table.model_id).group_by(table.model_id).having(func.count() > most)
