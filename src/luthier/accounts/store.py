"""Tables of tenants, users, memberships, keys and idempotency, and the only SQL on them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, UniqueConstraint, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime


class TenantRow(Row):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class UserRow(Row):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class MembershipRow(TenantOwned, Row):
    """A user's role in one tenant."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("tenant_id", "user_id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str]


class KeyRow(TenantOwned, Row):
    """An API key. Only the sha256 of its 256 random bits is kept; it has no secret to leak."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)


class IdempotencyRow(TenantOwned, Row):
    """Which resource a request with this `Idempotency-Key` made. Written in the same transaction as the resource."""

    __tablename__ = "idempotency"
    __table_args__ = (UniqueConstraint("tenant_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str]
    request_sha256: Mapped[str]
    resource_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime, index=True)


def anyone(session: Session) -> bool:
    """Whether a user exists at all."""
    return session.scalar(select(UserRow.id).limit(1)) is not None


def by_key(session: Session, sha256: str) -> tuple[KeyRow, str] | None:
    """The key with this hash, and its user's role in the key's tenant today."""
    found = session.execute(
        select(KeyRow, MembershipRow.role)
        .join(MembershipRow, (MembershipRow.user_id == KeyRow.user_id) & (MembershipRow.tenant_id == KeyRow.tenant_id))
        .where(KeyRow.sha256 == sha256)
    ).first()
    return None if found is None else (found[0], found[1])


def email_of(session: Session, user_id: str) -> str | None:
    return session.scalar(select(UserRow.email).where(UserRow.id == user_id))


def remembered(session: Session, tenant_id: str, key: str) -> IdempotencyRow | None:
    return session.scalar(select(IdempotencyRow).where(IdempotencyRow.tenant_id == tenant_id, IdempotencyRow.key == key))


def forget_before(session: Session, moment: datetime) -> None:
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < moment))
