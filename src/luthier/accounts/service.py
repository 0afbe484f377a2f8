"""Who is asking, and whether they asked the same before."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import keys, store
from luthier.accounts.keys import Keys
from luthier.accounts.limits import Limiter
from luthier.accounts.logins import Logins
from luthier.accounts.passwords import Passwords
from luthier.accounts.signing import SigningKeys
from luthier.accounts.teams import Teams
from luthier.accounts.types import Actor, Idempotency, KeyWish, Me, Role, Tokens
from luthier.accounts.users import Users
from luthier.database import EVERY_TENANT, Database, insert
from luthier.errors import Forbidden, KeyInFlight, KeyReused, NotFound
from luthier.seams import Clock

_REPLAY_FOR = timedelta(hours=48)
_FORGET_EVERY = timedelta(minutes=1)


class Accounts:
    """Who asks, by its nouns `keys`, `logins`, `users` and `teams`; and what an `Idempotency-Key` stands for."""

    def __init__(
        self,
        database: Database,
        now: Clock,
        *,
        signing: SigningKeys | None = None,
        limiter: Limiter | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        """Without `signing` the keys lie beside the database; `passwords` is for tests, which need not be slow."""
        passwords = passwords or Passwords()
        self.signing = signing or SigningKeys(database.path.with_name("signing-keys.json"), now)
        self.keys = Keys(database, now)
        self.limiter = limiter or Limiter()
        self.logins = Logins(database, passwords, self.signing, self.limiter, now)
        self.users = Users(database, passwords, now)
        self.teams = Teams(database, self.users, passwords, now)
        self._database = database
        self._now = now
        self._forgot = now() - _FORGET_EVERY
        self._in_flight: set[tuple[str, str]] = set()
        self._in_flight_lock = threading.Lock()

    def first_start(self, tenant_id: str | None = None) -> str | None:
        """On an empty database make a tenant, its admin and a key, and return the key: it is never shown again.

        Returns None where somebody exists already, so that two starts at once make one admin. `tenant_id` is that of a
        tenant whose folders outlived the database.
        """
        with self._database.read(EVERY_TENANT) as session:  # an ordinary start waits for no writer
            if store.anyone(session):
                return None
        with self._database.write(EVERY_TENANT) as session:
            if store.anyone(session):
                return None
            tenant = store.TenantRow(id=tenant_id or ids.new(ids.TENANT), name="Home", created_at=self._now())
            user = store.UserRow(id=ids.new(ids.USER), email="admin@localhost", created_at=self._now())
            session.add_all([tenant, user])
            session.flush()
            session.add(store.MembershipRow(tenant_id=tenant.id, user_id=user.id, role=Role.ADMIN))
            return self.keys.add(session, tenant.id, user.id, KeyWish(name="first start")).secret

    def authenticate(self, credential: str, *, team: str | None = None) -> Actor:
        """Who sends this API key or access token, acting for `team` if they may. Looked up anew on each request, in less time
        than the way to another thread takes.

        Raises: Unauthenticated, with the same words whatever is wrong; NotFound for a team that is not theirs.
        """
        if not credential.startswith(keys.PREFIX):
            return self.logins.actor(credential, team=team)
        actor = self.keys.holder(credential)
        if team is not None and team != actor.tenant_id:
            raise NotFound("team")
        return actor

    def vouched(self, issuer: str, subject: str, verified_email: str | None) -> Tokens:
        """A login for somebody whom an OpenID provider has identified; met for the first time, they get an account.

        Raises: Forbidden where it is a first time without a verified e-mail, or the account is disabled.
        """
        with self._database.write(EVERY_TENANT) as session:
            user = self.users.known(session, issuer, subject, verified_email)
            return self.logins.begin(session, user)

    def close(self) -> None:
        """Finish background work."""
        self.keys.close()

    @staticmethod
    def home(session: Session) -> str | None:
        """The team of those who run this platform: the one that the first start made."""
        return store.home(session)

    def check_operates(self, actor: Actor) -> None:
        """Raises: Forbidden for all but the admins of the team that runs the platform: prices and refunds are theirs."""
        with self._database.read(EVERY_TENANT) as session:
            home = store.home(session)
        if actor.tenant_id != home or actor.role is not Role.ADMIN:
            raise Forbidden("This is for the admins of the platform's own team.", hint="Ask those who run this server.")

    def me(self, actor: Actor) -> Me:
        """The caller as the platform sees them."""
        with self._database.read(EVERY_TENANT) as session:
            email = store.email_of(session, actor.user_id)
        return Me(user_id=actor.user_id, tenant_id=actor.tenant_id, email=email or "", role=actor.role)

    @contextmanager
    def in_flight(self, actor: Actor, key: str | None) -> Generator[None]:
        """Hold a key while its request runs. Raises: KeyInFlight for a second request with it meanwhile."""
        if key is None:
            yield
            return
        mark = (actor.tenant_id, key)
        with self._in_flight_lock:
            if mark in self._in_flight:
                raise KeyInFlight(
                    "A request with this Idempotency-Key is still running.", hint="Wait for its answer, or ask again in a second."
                )
            self._in_flight.add(mark)
        try:
            yield
        finally:
            self._in_flight.discard(mark)

    def replay(self, session: Session, actor: Actor, idempotency: Idempotency) -> str | None:
        """The id of what an earlier request with this key made, or None. Call it inside the transaction that makes it.

        Raises: KeyReused where the earlier request was another one.
        """
        return _same(store.remembered(session, actor.tenant_id, idempotency.key), idempotency)

    def replayed(self, actor: Actor, idempotency: Idempotency) -> str | None:
        """The same before there is a transaction; the answer may change until there is one. Raises: KeyReused."""
        return _same(store.remembered(self._database, actor.tenant_id, idempotency.key), idempotency)

    def remember(self, session: Session, actor: Actor, idempotency: Idempotency, resource_id: str) -> None:
        """Keep, in the transaction that made it, what this key stands for; older than 48 h is forgotten."""
        now = self._now()
        if not timedelta(0) <= now - self._forgot < _FORGET_EVERY:
            self._forgot = now
            store.forget_before(session, now - _REPLAY_FOR)
        row = store.IdempotencyRow(tenant_id=actor.tenant_id, key=idempotency.key, request_sha256=idempotency.request_sha256)
        row.resource_id, row.created_at = resource_id, now
        insert(session, row)

    def made_with(self, actor: Actor, key: str) -> str | None:
        """The id of what an earlier request with this key made, whatever the request was, or None."""
        row = store.remembered(self._database, actor.tenant_id, key)
        return None if row is None else row.resource_id

    def keep(self, actor: Actor, idempotency: Idempotency, resource_id: str) -> str:
        """Remember what a finished request has made. Returns the id that its key stands for: an earlier one, where there is one.

        For what is made in a transaction of its own: a crash between the two forgets the key, and nothing else.
        Raises: KeyReused where the earlier request was another one.
        """
        with self._database.write(actor.tenant_id) as session:
            earlier = self.replay(session, actor, idempotency)
            if earlier is None:
                self.remember(session, actor, idempotency, resource_id)
        return earlier or resource_id


def _same(row: store.IdempotencyRow | None, idempotency: Idempotency) -> str | None:
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise KeyReused
    return row.resource_id
