"""Tables of datasets and of who uses them, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, Index, Select, UniqueConstraint, bindparam, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Database, Row, TenantOwned, UtcTime, insert, look_in
from luthier.datasets.types import Listed

VALIDATING, READY, REJECTED, DELETING, DELETED = "validating", "ready", "rejected", "deleting", "deleted"


class DatasetRow(TenantOwned, Row):
    """One version. `report` is JSON; a deleted one keeps its row, so that its id can answer Gone.

    Until it is fetched one has no `sha256` (it is empty), and `fetched_bytes` counts what is here; then that is null.
    """

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant_id", "name", "version"), Index("datasets_by_state", "state"))
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    state: Mapped[str]
    file_name: Mapped[str | None]
    base_model: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    fetched_bytes: Mapped[int | None] = mapped_column(BigInteger)
    expected_bytes: Mapped[int | None] = mapped_column(BigInteger)
    rows_sha256: Mapped[str | None]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    report: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)


class DatasetUseRow(TenantOwned, Row):
    """A job or model that needs a dataset: deletion looks here."""

    __tablename__ = "dataset_uses"
    dataset_id: Mapped[str] = mapped_column(primary_key=True)
    by: Mapped[str] = mapped_column(primary_key=True, index=True)


def by_id(session: Session, dataset_id: str) -> DatasetRow | None:
    """The row, in any state, if the session's tenant owns it."""
    return session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id))


_BY_ID = select(DatasetRow.__table__).where(DatasetRow.id == bindparam("dataset_id"))


def look(place: Session | Database, tenant_id: str, dataset_id: str) -> DatasetRow | None:
    """The same, to be read only: inside a transaction of the tenant's, or outside all of them."""
    values = {"dataset_id": dataset_id}
    found = place.look(tenant_id, _BY_ID, values) if isinstance(place, Database) else look_in(place, _BY_ID, values)
    return cast("DatasetRow", found[0]) if found else None


def stored_bytes(session: Session, tenant_id: str) -> int:
    """How much of the disk a tenant's datasets take, as they came."""
    query = select(func.sum(DatasetRow.bytes)).where(DatasetRow.tenant_id == tenant_id, DatasetRow.deleted_at.is_(None))
    return session.scalar(query) or 0


def next_version(session: Session, tenant_id: str, name: str) -> int:
    """The next number of a name. Deleted and rejected ones keep theirs: a number never means two things."""
    query = select(func.max(DatasetRow.version)).where(DatasetRow.tenant_id == tenant_id, DatasetRow.name == name)
    return (session.scalar(query) or 0) + 1


def listed(name: str | None = None) -> Select[DatasetRow]:
    """What a list shows, of one name or of all."""
    query = select(DatasetRow).where(DatasetRow.state.in_((READY, VALIDATING)))
    return query if name is None else query.where(DatasetRow.name == name)


def listing(session: Session) -> Iterator[Listed]:
    """All that a list shows, newest first, a thousand in memory at a time."""
    row = DatasetRow
    query = select(row.id, row.name, row.version, row.state, row.created_at).where(row.state.in_((READY, VALIDATING)))
    return (Listed(*found) for found in session.execute(query.order_by(row.id.desc())).yield_per(1000))


def in_state(session: Session, state: str) -> Sequence[DatasetRow]:
    return session.scalars(select(DatasetRow).where(DatasetRow.state == state).order_by(DatasetRow.id)).all()


def rejected_before(session: Session, moment: datetime) -> Sequence[DatasetRow]:
    """Rejected datasets that are older and whose bytes are still there."""
    old = (DatasetRow.state == REJECTED, DatasetRow.deleted_at.is_(None), DatasetRow.created_at < moment)
    return session.scalars(select(DatasetRow).where(*old)).all()


def users(session: Session, dataset_id: str) -> Sequence[str]:
    """Ids of the jobs and models that use a dataset."""
    query = select(DatasetUseRow.by).where(DatasetUseRow.dataset_id == dataset_id)
    return session.scalars(query.order_by(DatasetUseRow.by)).all()


_USE = select(DatasetUseRow.__table__).where(
    DatasetUseRow.dataset_id == bindparam("dataset_id"), DatasetUseRow.by == bindparam("user")
)


def use(session: Session, row: DatasetRow, by: str) -> None:
    if not look_in(session, _USE, {"dataset_id": row.id, "user": by}):
        insert(session, DatasetUseRow(dataset_id=row.id, by=by, tenant_id=row.tenant_id))


def release(session: Session, by: str) -> None:
    session.execute(delete(DatasetUseRow).where(DatasetUseRow.by == by))
