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


_MOST = select(QuotaRow.__table__.c.most).where(QuotaRow.tenant_id == bindparam("tenant"), QuotaRow.name == bindparam("quota"))


def most(session: Session, tenant_id: str, name: str) -> int | None:
    """The exception's number; None where there is no exception."""
    found = look_in(session, _MOST, {"tenant": tenant_id, "quota": name})
    return found[0].most if found else None


def exists(session: Session, tenant_id: str) -> bool:
    return session.scalar(select(TenantRow.id).where(TenantRow.id == tenant_id)) is not None
