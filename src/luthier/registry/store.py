"""Tables of model versions and of who uses them, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, bindparam, delete, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Database, Row, TenantOwned, UtcTime, page
from luthier.registry.types import Listed, Stage

_IN_PRODUCTION = text("stage = 'Production'")


class ModelRow(TenantOwned, Row):
    """One version of a name. A deleted one stays as a row, so that its number and its job are not used again."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name", "number"),
        Index(
            "ix_models_one_production",
            "tenant_id",
            "name",
            unique=True,
            sqlite_where=_IN_PRODUCTION,
            postgresql_where=_IN_PRODUCTION,
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    stage: Mapped[str]
    job_id: Mapped[str] = mapped_column(unique=True)
    base_model: Mapped[str]
    base_revision: Mapped[str]
    dataset: Mapped[str]
    files: Mapped[str] = mapped_column(Text)
    card: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    updated_at: Mapped[datetime] = mapped_column(UtcTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    promoted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """When it passed the gate last: a rollback goes back in this order, and leaves it as it is."""
    asked_by: Mapped[str | None]
    """Who asked for Production, while a second person has not."""
    asked_at: Mapped[datetime | None] = mapped_column(UtcTime)


class ModelUseRow(TenantOwned, Row):
    """Something that needs a version: it keeps the version from being deleted."""

    __tablename__ = "model_uses"
    __table_args__ = (UniqueConstraint("model_id", "used_by"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    used_by: Mapped[str] = mapped_column(index=True)


def by_id(session: Session, model_id: str) -> ModelRow | None:
    return session.scalar(select(ModelRow).where(ModelRow.id == model_id))


def by_job(session: Session, job_id: str) -> ModelRow | None:
    return session.scalar(select(ModelRow).where(ModelRow.job_id == job_id))


def by_number(session: Session, name: str, number: int) -> ModelRow | None:
    return session.scalar(select(ModelRow).where(ModelRow.name == name, ModelRow.number == number))


def in_production(session: Session, name: str) -> ModelRow | None:
    return session.scalar(select(ModelRow).where(ModelRow.name == name, ModelRow.stage == Stage.PRODUCTION))


def promoted_before(session: Session, name: str, than: datetime | None) -> ModelRow | None:
    """The version that was promoted last, before a moment."""
    query = select(ModelRow).where(ModelRow.name == name, ModelRow.deleted_at.is_(None), ModelRow.promoted_at.is_not(None))
    if than is not None:
        query = query.where(ModelRow.promoted_at < than)
    return session.scalar(query.order_by(ModelRow.promoted_at.desc(), ModelRow.number.desc()).limit(1))


# Made once: building it takes longer than running it, and every prediction runs it.
_PRODUCTION_ID = select(ModelRow.id).where(ModelRow.name == bindparam("name"), ModelRow.stage == Stage.PRODUCTION)


def production_id(database: Database, tenant_id: str, name: str) -> str | None:
    """The id alone, and without a session."""
    found = database.look(tenant_id, _PRODUCTION_ID, {"name": name})
    return found[0].id if found else None


def newest_number(session: Session, name: str) -> int:
    """The highest number that this name ever had, 0 without any."""
    return session.scalar(select(func.max(ModelRow.number)).where(ModelRow.name == name)) or 0


def newest_standing(session: Session, name: str) -> int | None:
    """The highest number of this name that was not deleted."""
    return session.scalar(select(func.max(ModelRow.number)).where(ModelRow.name == name, ModelRow.deleted_at.is_(None)))


def by_tail(session: Session, tail: str, name: str | None) -> ModelRow | None:
    """The newest version whose id ends like this."""
    query = select(ModelRow).where(ModelRow.id.endswith(tail, autoescape=True))
    if name is not None:
        query = query.where(ModelRow.name == name)
    return session.scalar(query.order_by(ModelRow.id.desc()).limit(1))


def standing(
    session: Session, *, name: str | None, stage: Stage | None, after: str | None, limit: int
) -> tuple[list[ModelRow], str | None]:
    query = select(ModelRow).where(ModelRow.deleted_at.is_(None))
    if name is not None:
        query = query.where(ModelRow.name == name)
    if stage is not None:
        query = query.where(ModelRow.stage == stage)
    return page(session, query, ModelRow, after=after, limit=limit)


def listing(session: Session) -> Iterator[Listed]:
    """All that were not deleted, newest first, a thousand in memory at a time."""
    row = ModelRow
    query = select(row.id, row.name, row.number, row.stage, row.job_id, row.created_at).where(row.deleted_at.is_(None))
    return (Listed(*found) for found in session.execute(query.order_by(row.id.desc())).yield_per(1000))


def everything(session: Session) -> list[ModelRow]:
    return list(session.scalars(select(ModelRow).order_by(ModelRow.id)))


def users_of(session: Session, model_id: str) -> list[str]:
    return list(session.scalars(select(ModelUseRow.used_by).where(ModelUseRow.model_id == model_id).limit(10)))


def is_used(session: Session, model_id: str, by: str) -> bool:
    found = session.scalar(select(ModelUseRow.id).where(ModelUseRow.model_id == model_id, ModelUseRow.used_by == by))
    return found is not None


def release(session: Session, by: str) -> None:
    session.execute(delete(ModelUseRow).where(ModelUseRow.used_by == by))
