"""Users: people with an account. Each gets a team of one; other teams invite them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import store
from luthier.accounts.passwords import Passwords
from luthier.accounts.types import Actor, Role, User
from luthier.database import EVERY_TENANT, Database
from luthier.errors import AccountExists, Conflict, Forbidden, NotFound
from luthier.seams import Clock


class Users:
    """Everybody on this server, for those who run it; and the OpenID provider's word on who somebody is."""

    def __init__(self, database: Database, passwords: Passwords, now: Clock) -> None:
        self._database = database
        self._passwords = passwords
        self._now = now

    def add(self, email: str, password: str | None) -> User:
        """A new account with a team of one. Raises: AccountExists, also for the second of two at once."""
        hashed = None if password is None else self._passwords.hashed(password)
        with self._database.write(EVERY_TENANT) as session:
            row = self.made(session, email, hashed, confirmed=True)
            self.home(session, row)
            return _user(row)

    def made(self, session: Session, email: str, password_hash: str | None, *, confirmed: bool) -> store.UserRow:
        """A new user without a team yet, in the caller's transaction. Raises: AccountExists."""
        row = store.UserRow(id=ids.new(ids.USER), email=email, password_hash=password_hash, confirmed=confirmed)
        row.created_at = self._now()
        session.add(row)
        try:
            session.flush()
        except IntegrityError:
            raise AccountExists from None
        return row

    def home(self, session: Session, user: store.UserRow) -> None:
        """The team of one that every user has, and is the admin of."""
        tenant = store.TenantRow(id=ids.new(ids.TENANT), name=user.email.partition("@")[0], created_at=self._now())
        session.add(tenant)
        session.flush()
        session.add(store.MembershipRow(tenant_id=tenant.id, user_id=user.id, role=Role.ADMIN))
        session.flush()

    def list(self) -> list[User]:
        """Everybody, oldest first."""
        with self._database.read(EVERY_TENANT) as session:
            return [_user(row) for row in store.users(session)]

    def last_logins(self) -> dict[str, datetime]:
        """When each user last logged in, as far back as logins are kept."""
        with self._database.read(EVERY_TENANT) as session:
            return store.last_logins(session)

    def set_password(self, email: str, password: str) -> User:
        """A new password for somebody; all their logins end. Raises: NotFound."""
        hashed = self._passwords.hashed(password)
        with self._database.write(EVERY_TENANT) as session:
            row = _named(session, email)
            row.password_hash, row.token_version = hashed, row.token_version + 1
            return _user(row)

    def disable(self, email: str) -> User:
        """Keys and logins of this user open nothing from the next request on; what they made stays. Raises: NotFound."""
        with self._database.write(EVERY_TENANT) as session:
            row = _named(session, email)
            row.disabled_at, row.token_version = row.disabled_at or self._now(), row.token_version + 1
            return _user(row)

    def enable(self, email: str) -> User:
        """Let them in again; their keys work as before. Raises: NotFound."""
        with self._database.write(EVERY_TENANT) as session:
            row = _named(session, email)
            row.disabled_at = None
            return _user(row)

    def confirm(self, email: str, *, afresh: bool = False) -> User:
        """This account belongs to whoever has the address: a provider's word on that is linked to it from now on.

        `afresh` is for one that somebody else had made: password, logins, keys and places in teams end, and a new team of one
        begins, so that nothing of theirs is left in it, and nothing that comes is theirs. Raises: NotFound; Conflict for `afresh`
        where the account is confirmed: it is somebody's.
        """
        with self._database.write(EVERY_TENANT) as session:
            row = _named(session, email)
            if afresh and row.confirmed:
                raise Conflict("This account is confirmed; nothing of it was ended.", hint="See `luthier users disable`.")
            row.confirmed = True
            if afresh:
                row.password_hash, row.token_version = None, row.token_version + 1
                store.revoke_keys(session, row.id, self._now())
                store.leave_teams(session, row.id)
                self.home(session, row)
            return _user(row)

    def acting(self, email: str, *, team: str | None = None) -> Actor:
        """For commands of those who run the server: this user, in this team or in their first. Raises: NotFound."""
        with self._database.read(EVERY_TENANT) as session:
            row = _named(session, email)
            place = store.membership(session, row.id, team)
            if place is None:
                raise NotFound("team", hint="They are in no such team, or it is suspended: `luthier teams list`.")
            return Actor(tenant_id=place.tenant_id, user_id=row.id, role=Role(place.role))

    def known(self, session: Session, issuer: str, subject: str, verified_email: str | None) -> store.UserRow:
        """The user whom a provider calls `subject`; met for the first time, the one with that e-mail, or a new one.

        Raises: Forbidden where it is a first time and the provider has not verified the e-mail, or where nobody knows whether
        the account with that e-mail is theirs: whoever made it would share it with them.
        """
        row = store.identity(session, issuer, subject)
        if row is None:
            if verified_email is None:
                raise Forbidden("The provider has not verified your e-mail address.", hint="Verify it there, then log in again.")
            row = store.by_email(session, verified_email)
            if row is None:
                row = self.made(session, verified_email, None, confirmed=True)
                self.home(session, row)
            if not row.confirmed:
                raise Forbidden(
                    "Your login was not linked: an account with your e-mail address was made here with a password, and nobody "
                    "has confirmed that it is yours.",
                    hint="Ask those who run this server: `luthier users confirm EMAIL` links your next login.",
                )
            session.add(store.IdentityRow(issuer=issuer, subject=subject, user_id=row.id, created_at=self._now()))
        if row.disabled_at is not None:
            raise Forbidden("This account is disabled.", hint="Ask those who run this server.")
        return row


def _named(session: Session, email: str) -> store.UserRow:
    row = store.by_email(session, email)
    if row is None:
        raise NotFound("user", hint="List them with `luthier users list`.")
    return row


def _user(row: store.UserRow) -> User:
    return User(
        id=row.id,
        email=row.email,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        has_password=row.password_hash is not None,
        confirmed=row.confirmed,
    )
