"""Tables of tenants, users, memberships, keys and idempotency, and the only SQL on them."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, ForeignKey, Select, UniqueConstraint, bindparam, delete, func, select, true, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import EVERY_TENANT, Database, Row, TenantOwned, UtcTime, look_in


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
    # Whether somebody who may be believed has said that the address is theirs: else they may have taken another person's.
    confirmed: Mapped[bool] = mapped_column(default=True, server_default=true())


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
    spends_as: Mapped[str | None]  # the first of those that replaced each other: their cap is one; none: this is it
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


# Made once: building it takes longer than running it, and every request runs it.
_BY_KEY = (
    select(*KeyRow.__table__.c, MembershipRow.role)
    .join(MembershipRow, (MembershipRow.user_id == KeyRow.user_id) & (MembershipRow.tenant_id == KeyRow.tenant_id))
    .join(UserRow, UserRow.id == KeyRow.user_id)
    .join(TenantRow, TenantRow.id == KeyRow.tenant_id)
    .where(KeyRow.sha256 == bindparam("sha256"), UserRow.disabled_at.is_(None), TenantRow.suspended_at.is_(None))
)


def by_key(database: Database, sha256: str) -> tuple[KeyRow, str] | None:
    """The key with this hash, and its user's role in the key's team today; None where user or team may not enter."""
    found = database.look(EVERY_TENANT, _BY_KEY, {"sha256": sha256})
    # Its columns are called as those of the row are, and nobody writes it.
    return (cast("KeyRow", found[0]), found[0].role) if found else None


def home(session: Session) -> str | None:
    """The team of those who run this platform: the first one."""
    return session.scalar(select(TenantRow.id).order_by(TenantRow.created_at, TenantRow.id).limit(1))


def keys_of(user_id: str | None) -> Select[KeyRow]:
    """The team's keys, or those of one of its users."""
    return select(KeyRow) if user_id is None else select(KeyRow).where(KeyRow.user_id == user_id)


def keys_in_use(session: Session, user_id: str, now: datetime) -> int:
    """How many keys of this user open something in this team."""
    living = KeyRow.revoked_at.is_(None) & (KeyRow.expires_at.is_(None) | (KeyRow.expires_at > now))
    return session.scalar(select(func.count()).select_from(KeyRow).where(KeyRow.user_id == user_id, living)) or 0


def used(session: Session, key_id: str, now: datetime) -> None:
    session.execute(update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=now))


def by_email(session: Session, email: str) -> UserRow | None:
    return session.scalar(select(UserRow).where(UserRow.email == email))


def membership(session: Session, user_id: str, tenant_id: str | None = None) -> MembershipRow | None:
    """A user's place in this team, or in the first team that they joined; None where the team is suspended."""
    query = (
        select(MembershipRow)
        .join(TenantRow, TenantRow.id == MembershipRow.tenant_id)
        .where(MembershipRow.user_id == user_id, TenantRow.suspended_at.is_(None))
        .order_by(MembershipRow.id)
    )
    return session.scalar((query if tenant_id is None else query.where(MembershipRow.tenant_id == tenant_id)).limit(1))


def login(session: Session, login_id: str) -> tuple[LoginRow, UserRow] | None:
    """A login and whose it is, unless either was ended."""
    found = session.execute(
        select(LoginRow, UserRow)
        .join(UserRow, UserRow.id == LoginRow.user_id)
        .where(
            LoginRow.id == login_id,
            LoginRow.ended_at.is_(None),
            LoginRow.token_version == UserRow.token_version,
            UserRow.disabled_at.is_(None),
        )
    ).first()
    return None if found is None else (found[0], found[1])


_ENTERED = (
    select(*LoginRow.__table__.c)
    .join(UserRow, UserRow.id == LoginRow.user_id)
    .where(LoginRow.id == bindparam("login"), LoginRow.ended_at.is_(None))
    .where(LoginRow.token_version == UserRow.token_version, UserRow.disabled_at.is_(None))
)
_PLACE = (
    select(*MembershipRow.__table__.c)
    .join(TenantRow, TenantRow.id == MembershipRow.tenant_id)
    .where(MembershipRow.user_id == bindparam("user"), MembershipRow.tenant_id == bindparam("team"))
    .where(TenantRow.suspended_at.is_(None))
)


def entered(database: Database, login_id: str) -> LoginRow | None:
    """A login, unless it or its user was ended; to be read only."""
    found = database.look(EVERY_TENANT, _ENTERED, {"login": login_id})
    return cast("LoginRow", found[0]) if found else None


def place(database: Database, user_id: str, tenant_id: str) -> MembershipRow | None:
    """A user's place in this team; None where the team is suspended. To be read only."""
    found = database.look(EVERY_TENANT, _PLACE, {"user": user_id, "team": tenant_id})
    return cast("MembershipRow", found[0]) if found else None


def forget_logins(session: Session, now: datetime) -> None:
    """Those that have expired, with all their refresh tokens."""
    session.execute(delete(LoginRow).where(LoginRow.expires_at <= now))


def end_logins(session: Session, user_id: str, now: datetime, *, tenant_id: str | None = None) -> None:
    """Of this user; with a `tenant_id` only those that act for it."""
    query = update(LoginRow).where(LoginRow.user_id == user_id, LoginRow.ended_at.is_(None)).values(ended_at=now)
    session.execute(query if tenant_id is None else query.where(LoginRow.tenant_id == tenant_id))


def revoke_keys(session: Session, user_id: str, now: datetime) -> None:
    """All keys of this user in the session's team, or in every team."""
    session.execute(update(KeyRow).where(KeyRow.user_id == user_id, KeyRow.revoked_at.is_(None)).values(revoked_at=now))


def members(session: Session) -> list[tuple[MembershipRow, UserRow]]:
    """Of the session's team, in the order in which they joined."""
    query = select(MembershipRow, UserRow).join(UserRow, UserRow.id == MembershipRow.user_id).order_by(MembershipRow.id)
    return [(row[0], row[1]) for row in session.execute(query)]


def teams_of(session: Session, user_id: str) -> list[tuple[TenantRow, MembershipRow]]:
    """Where this user is a member, in the order of joining."""
    query = (
        select(TenantRow, MembershipRow)
        .join(MembershipRow, MembershipRow.tenant_id == TenantRow.id)
        .where(MembershipRow.user_id == user_id)
        .order_by(MembershipRow.id)
    )
    return [(row[0], row[1]) for row in session.execute(query)]


def admins_beside(session: Session, user_id: str) -> int:
    """How many others of the session's team can still log in and are its admins."""
    query = select(func.count()).select_from(MembershipRow).join(UserRow, UserRow.id == MembershipRow.user_id)
    others = query.where(MembershipRow.role == "admin", MembershipRow.user_id != user_id, UserRow.disabled_at.is_(None))
    return session.scalar(others) or 0


def users(session: Session) -> list[UserRow]:
    """Everybody on this server."""
    return list(session.scalars(select(UserRow).order_by(UserRow.id)))


def last_logins(session: Session) -> dict[str, datetime]:
    """By user."""
    rows = session.execute(select(LoginRow.user_id, func.max(LoginRow.created_at)).group_by(LoginRow.user_id))
    return {row[0]: row[1] for row in rows}


def teams(session: Session) -> list[tuple[TenantRow, int]]:
    """All teams of this server, with how many members each has."""
    query = select(TenantRow, func.count(MembershipRow.id)).outerjoin(MembershipRow, MembershipRow.tenant_id == TenantRow.id)
    return [(row[0], row[1]) for row in session.execute(query.group_by(TenantRow.id).order_by(TenantRow.id))]


def open_invitations(session: Session, now: datetime, *, wrong_tries: int) -> list[InvitationRow]:
    """Of the session's team, newest first; those that were guessed at so often are open no more."""
    query = select(InvitationRow).where(InvitationRow.accepted_at.is_(None), InvitationRow.expires_at > now)
    return list(session.scalars(query.where(InvitationRow.wrong_tries < wrong_tries).order_by(InvitationRow.id.desc())))


def leave_teams(session: Session, user_id: str) -> None:
    """This user's places in all teams of the session end."""
    session.execute(delete(MembershipRow).where(MembershipRow.user_id == user_id))


def withdraw_invitations(session: Session, email: str) -> None:
    """All that this address was given by the session's team, and has not used."""
    session.execute(delete(InvitationRow).where(InvitationRow.email == email, InvitationRow.accepted_at.is_(None)))


def identity(session: Session, issuer: str, subject: str) -> UserRow | None:
    """The user who is this subject of this provider."""
    return session.scalar(
        select(UserRow)
        .join(IdentityRow, IdentityRow.user_id == UserRow.id)
        .where(IdentityRow.issuer == issuer, IdentityRow.subject == subject)
    )


def email_of(session: Session, user_id: str) -> str | None:
    return session.scalar(select(UserRow.email).where(UserRow.id == user_id))


_REMEMBERED = select(IdempotencyRow.__table__).where(
    IdempotencyRow.tenant_id == bindparam("tenant"), IdempotencyRow.key == bindparam("idempotency_key")
)


def remembered(place: Session | Database, tenant_id: str, key: str) -> IdempotencyRow | None:
    """What this key stands for: inside a transaction, or as it is outside all of them. To be read only."""
    values = {"tenant": tenant_id, "idempotency_key": key}
    found = place.look(tenant_id, _REMEMBERED, values) if isinstance(place, Database) else look_in(place, _REMEMBERED, values)
    return cast("IdempotencyRow", found[0]) if found else None


def forget_before(session: Session, moment: datetime) -> None:
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < moment))
