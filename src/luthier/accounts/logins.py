"""Logins: a password for two tokens, of which one lives ten minutes and the other is good for one exchange."""

from __future__ import annotations

from datetime import timedelta

from limits import parse
from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import access_tokens, store
from luthier.accounts.access_tokens import Claims
from luthier.accounts.limits import Limiter
from luthier.accounts.opaque import digest, fresh
from luthier.accounts.passwords import Passwords
from luthier.accounts.signing import SigningKeys
from luthier.accounts.types import Actor, Role, Tokens
from luthier.database import EVERY_TENANT, Database
from luthier.errors import Forbidden, LoginRefused, NotFound, TooMany, Unauthenticated
from luthier.seams import Clock

_LIVES = timedelta(days=30)
_TRIES = parse("10/minute")


class Logins:
    """Who logged in, and until when. Nothing is believed of a token but that it is ours: each request asks the tables."""

    def __init__(self, database: Database, passwords: Passwords, signing: SigningKeys, limiter: Limiter, now: Clock) -> None:
        self._tries = _Tries(limiter)
        self._database = database
        self._passwords = passwords
        self._signing = signing
        self._now = now

    def log_in(self, email: str, password: str, *, team: str | None = None, address: str | None = None) -> Tokens:
        """Tokens for this password, acting for `team`, or for the first team that the user joined.

        Takes as long for an address that nobody has. Raises: LoginRefused, in the same words whatever is wrong; TooMany after
        ten wrong ones in a minute, for the account or from the address, whether the account exists or not.
        """
        self._tries.begin(email, address)
        with self._database.read(EVERY_TENANT) as session:
            user = store.by_email(session, email)
        kept = user.password_hash if user is not None else None
        if not self._passwords.matches(password, kept) or user is None:
            self._tries.failed(address)
            raise LoginRefused
        self._tries.succeeded(email)
        with self._database.write(EVERY_TENANT) as session:
            row = session.get_one(store.UserRow, user.id)
            if row.disabled_at is not None or row.password_hash != kept:
                raise LoginRefused
            return self.begin(session, row, team=team)

    def begin(self, session: Session, user: store.UserRow, *, team: str | None = None) -> Tokens:
        """A login of somebody who has proven who they are. Raises: LoginRefused where they are in no such team."""
        now = self._now()
        store.forget_logins(session, now)
        place = store.membership(session, user.id, team)
        if place is None:
            raise LoginRefused
        row = store.LoginRow(
            id=ids.new(ids.LOGIN),
            tenant_id=place.tenant_id,
            user_id=user.id,
            token_version=user.token_version,
            created_at=now,
            expires_at=now + _LIVES,
        )
        session.add(row)
        session.flush()
        return self._tokens(session, row, place)

    def refresh(self, refresh_token: str, *, team: str | None = None) -> Tokens:
        """The next two tokens; the one that came is used up. Whoever sends a used one has stolen it, or was stolen from:
        the whole login ends, and both have to log in.

        Raises: Unauthenticated; NotFound for a team that they are not in.
        """
        with self._database.write(EVERY_TENANT) as session:
            tokens = self._exchanged(session, refresh_token, team)
        if tokens is None:  # raised out here, so that the end of a stolen login is kept
            raise Unauthenticated(
                "This refresh token is not valid, or no longer.", hint="Log in again: `tune login`, or `POST /auth/login`."
            )
        return tokens

    def log_out(self, actor: Actor) -> None:
        """All tokens of this login end now. Raises: Forbidden for a key, which has no login."""
        with self._database.write(EVERY_TENANT) as session:
            session.get_one(store.LoginRow, _login_of(actor)).ended_at = self._now()

    def change_password(self, actor: Actor, current: str, new: str) -> None:
        """Set a new one; every login of theirs ends, this one too. Keys stay. Raises: LoginRefused; Forbidden for a key."""
        _login_of(actor)
        with self._database.read(EVERY_TENANT) as session:
            user = session.get_one(store.UserRow, actor.user_id)
        self._tries.begin(user.email, actor.address)
        if not self._passwords.matches(current, user.password_hash):
            self._tries.failed(actor.address)
            raise LoginRefused
        self._tries.succeeded(user.email)
        hashed = self._passwords.hashed(new)
        with self._database.write(EVERY_TENANT) as session:
            row = session.get_one(store.UserRow, actor.user_id)
            row.password_hash, row.token_version = hashed, row.token_version + 1

    def actor(self, token: str, *, team: str | None = None) -> Actor:
        """Who sends this access token; `team` names another one of theirs to act for.

        Role, team, password and account are looked up anew on each request, so that what was revoked is refused at once.
        Raises: Unauthenticated; NotFound for a team that they are not in.
        """
        said = access_tokens.read(token, self._signing.valid(), self._now())
        login = store.entered(self._database, said.login)
        if login is None or not _agree(said, login) or login.expires_at <= self._now():
            raise Unauthenticated
        place = store.place(self._database, login.user_id, team or said.tenant)
        if place is None:
            raise NotFound("team") if team is not None else Unauthenticated
        return Actor(tenant_id=place.tenant_id, user_id=place.user_id, role=Role(place.role), login_id=said.login)

    def _exchanged(self, session: Session, refresh_token: str, team: str | None) -> Tokens | None:
        row = session.get(store.RefreshRow, digest(refresh_token))
        if row is None:
            return None
        now = self._now()
        if row.used_at is not None:
            session.get_one(store.LoginRow, row.login_id).ended_at = now
            return None
        found = store.login(session, row.login_id)
        if found is None or found[0].expires_at <= now:
            return None
        login, user = found
        place = store.membership(session, user.id, team or login.tenant_id)
        if place is None:
            if team is not None:
                raise NotFound("team")
            return None
        row.used_at = now
        login.tenant_id = place.tenant_id
        return self._tokens(session, login, place)

    def _tokens(self, session: Session, login: store.LoginRow, place: store.MembershipRow) -> Tokens:
        refresh = fresh("lr")
        session.add(store.RefreshRow(sha256=digest(refresh), login_id=login.id))
        said = access_tokens.claims(
            user_id=login.user_id,
            tenant_id=place.tenant_id,
            login_id=login.id,
            token_version=login.token_version,
            now=self._now(),
        )
        return Tokens(
            access_token=access_tokens.signed(said, self._signing.current()),
            expires_in=int(access_tokens.LIVES.total_seconds()),
            refresh_token=refresh,
            refresh_expires_at=login.expires_at,
            user_id=login.user_id,
            tenant_id=place.tenant_id,
            role=Role(place.role),
        )


class _Tries:
    """Wrong passwords, counted for the account and for the address that they come from; by all servers together with Redis."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def begin(self, email: str, address: str | None) -> None:
        # The account's is counted before the password is looked at: many at once must not all be let through. The address's only
        # when it was wrong: behind one address there may be a whole office, and a right one must not clear it.
        standings = [self._limiter.hit(_TRIES, "login-account", email)]
        if address is not None:
            standings.append(self._limiter.look(_TRIES, "login-address", address))
        refused = [standing for standing in standings if not standing.allowed]
        if refused:
            wait_s = max(standing.reset_s for standing in refused)
            raise TooMany(
                f"{_TRIES.amount} wrong passwords came within {_TRIES.get_expiry()} s, for this account or from this address.",
                retry_after_s=wait_s,
            )

    def failed(self, address: str | None) -> None:
        if address is not None:
            self._limiter.hit(_TRIES, "login-address", address)

    def succeeded(self, email: str) -> None:
        self._limiter.clear(_TRIES, "login-account", email)


def _agree(said: Claims, login: store.LoginRow) -> bool:
    return (said.sub, said.tv) == (login.user_id, login.token_version)


def _login_of(actor: Actor) -> str:
    if actor.login_id is None:
        raise Forbidden("An API key has no login.", hint="Log in first (`tune login`); keys are ended with `tune keys revoke`.")
    return actor.login_id
