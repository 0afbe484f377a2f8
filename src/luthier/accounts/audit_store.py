"""The table of the audit log, and the only SQL on it. Triggers refuse deletion, and any change but the sealing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Index, Select, bindparam, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier import ids
from luthier.database import Row, TenantOwned, UtcTime, look_in, to_ms


class AuditRow(TenantOwned, Row):
    """One request that changed something, one act of the platform, or equal refusals of one minute."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_chain", "tenant_id", "seq", unique=True),
        Index("audit_of_team", "tenant_id", "id"),
        Index("audit_of_request", "tenant_id", "request_id", "id"),
        Index(
            "audit_unsealed",
            "id",
            sqlite_where=text("seq IS NULL"),
            postgresql_where=text("seq IS NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcTime)
    until: Mapped[datetime | None] = mapped_column(UtcTime)  # of several refusals: the last one
    actor: Mapped[str]
    key_id: Mapped[str | None]
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    action: Mapped[str]
    route: Mapped[str | None]
    resources: Mapped[str]  # ids, each between blanks, so that one is found by " id "
    outcome: Mapped[str]
    status: Mapped[int | None]
    code: Mapped[str | None]
    count: Mapped[int]
    data: Mapped[str | None]
    seq: Mapped[int | None]
    sha256: Mapped[str | None]


_HEAD = (
    select(*AuditRow.__table__.c["seq", "sha256"])
    .where(AuditRow.tenant_id == bindparam("chain"), AuditRow.seq.is_not(None))
    .order_by(AuditRow.seq.desc())
    .limit(1)
)


def head(session: Session, tenant_id: str) -> tuple[int, str | None]:
    """Number and hash of the last sealed row of a chain; (0, None) before the first."""
    found = look_in(session, _HEAD, {"chain": tenant_id})
    return (found[0].seq, found[0].sha256) if found else (0, None)


def seal(session: Session, seals: list[dict[str, Any]]) -> None:
    """Write number and hash into rows that have none: `{"row": id, "number": ..., "hash": ...}` each."""
    query = update(AuditRow.__table__).where(AuditRow.__table__.c.id == bindparam("row"))  # pyright: ignore[reportArgumentType]
    session.connection().execute(query.values(seq=bindparam("number"), sha256=bindparam("hash")), seals)


def tenants(session: Session) -> list[str]:
    return list(session.scalars(select(AuditRow.tenant_id).distinct().order_by(AuditRow.tenant_id)))


def tenants_since(session: Session, since: datetime) -> set[str]:
    """Whose rows there are from that time on, by their ids, which are in the order of time."""
    first = ids.new(ids.AUDIT, at_ms=to_ms(since))
    return set(session.scalars(select(AuditRow.tenant_id).where(AuditRow.id >= first).distinct()))


def chain(tenant_id: str) -> Select[AuditRow]:
    """The query of the sealed rows of a chain."""
    return select(AuditRow).where(AuditRow.tenant_id == tenant_id, AuditRow.seq.is_not(None))  # pyright: ignore[reportReturnType]


def count_unsealed(session: Session, before: datetime) -> int:
    return session.scalar(select(func.count()).where(AuditRow.seq.is_(None), AuditRow.at < before)) or 0


def not_sealed() -> Select[AuditRow]:
    """The query of the rows that stand in no chain yet."""
    return select(AuditRow).where(AuditRow.seq.is_(None))  # pyright: ignore[reportReturnType]


def matching(
    *, since: datetime | None = None, until: datetime | None = None, on: str | None = None, **equal: str | None
) -> Select[AuditRow]:
    """The query of a search: `equal` columns, rows that name the id `on`, a time from `since` to before `until`."""
    conditions: list[ColumnElement[bool]] = [
        getattr(AuditRow, name) == value for name, value in equal.items() if value is not None
    ]
    if on is not None:
        conditions.append(AuditRow.resources.contains(f" {on} ", autoescape=True))
    if since is not None:
        conditions.append(AuditRow.at >= since)
    if until is not None:
        conditions.append(AuditRow.at < until)
    return select(AuditRow).where(*conditions)  # pyright: ignore[reportReturnType]
