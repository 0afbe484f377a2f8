"""Tables of tenants, users, memberships, keys and idempotency, and the only SQL on them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime


class TenantRow(Row):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    suspended_at: Mapped[datetime | None] = mapped_column(UtcTime)


class UserRow(Row):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    password_hash: Mapped[str | None]  # none: they have keys only, or come by another login
    token_version: Mapped[int] = mapped_column(default=0, server_default="0")  # one more, and every login so far is void
    disabled_at: Mapped[datetime | None] = mapped_column(UtcTime)


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
    prefix: Mapped[str] = mapped_column(default="", server_default="")  # its first characters, to be recognised by
    scopes: Mapped[str | None]  # separated by blanks; none: all that the role may do
    audience: Mapped[str] = mapped_column(default="api", server_default="api")
    spend_cap_micro_usd: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime)


class LoginRow(TenantOwned, Row):
    """One login, and every token that came of it: it ends as a whole."""

    __tablename__ = "logins"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    token_version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)


class RefreshRow(Row):
    """A refresh token. Used ones stay until their login has expired: whoever sends one again has stolen it."""

    __tablename__ = "refresh_tokens"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    login_id: Mapped[str] = mapped_column(ForeignKey("logins.id", ondelete="CASCADE"), index=True)
    used_at: Mapped[datetime | None] = mapped_column(UtcTime)


class InvitationRow(TenantOwned, Row):
    """An offer to one e-mail address to join a team."""

    __tablename__ = "invitations"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    email: Mapped[str]
    role: Mapped[str]
    sha256: Mapped[str]
    wrong_tries: Mapped[int] = mapped_column(default=0, server_default="0")
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
    accepted_at: Mapped[datetime | None] = mapped_column(UtcTime)


class IdentityRow(Row):
    """Who a user is for an OpenID provider. The subject counts, not the e-mail: that may pass to somebody else there."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


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
