"""The table of exceptions from the quotas' defaults, and the only SQL on it."""

from __future__ import annotations

from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.accounts.store import TenantRow
from luthier.database import Row, TenantOwned, look_in


class QuotaRow(TenantOwned, Row):
    """How much a team may have instead of the default; 0 is no limit."""

    __tablename__ = "quotas"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    most: Mapped[int] = mapped_column(BigInteger)


def exception(session: Session, tenant_id: str, name: str) -> QuotaRow | None:
    """To be changed in this session."""
    return session.scalar(select(QuotaRow).where(QuotaRow.tenant_id == tenant_id, QuotaRow.name == name))


_EXCEPTIONS = select(*QuotaRow.__table__.c["name", "most"]).where(QuotaRow.tenant_id == bindparam("tenant"))


def exceptions(session: Session, tenant_id: str) -> dict[str, int]:
    """The numbers of all its exceptions, by the names of what they are of."""
    return {row.name: row.most for row in look_in(session, _EXCEPTIONS, {"tenant": tenant_id})}


def exists(session: Session, tenant_id: str) -> bool:
    return session.scalar(select(TenantRow.id).where(TenantRow.id == tenant_id)) is not None
