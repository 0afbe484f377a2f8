"""API keys: shown once, kept as a hash, never more than their maker may do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import store
from luthier.accounts.opaque import digest, fresh
from luthier.accounts.types import Actor, Audience, Key, KeyWish, NewKey, Role, Scope
from luthier.database import EVERY_TENANT, Database, page
from luthier.errors import Conflict, DatabaseBusy, Forbidden, NotFound, Unauthenticated
from luthier.seams import Clock
from luthier.values import Page, usd

PREFIX = "lk_"
_SHOWN = 12
_MOST = 100
_NOTE_EVERY = timedelta(minutes=1)


class Keys:
    """What a program sends instead of a password."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now
        self._uses = _Uses(database)

    def create(self, actor: Actor, wish: KeyWish) -> NewKey:
        """A key of the caller's for the team that they act for. Its secret is in the answer, and nowhere else.

        Raises: Forbidden where it could do more than the key that makes it; Conflict at 100 keys in use.
        """
        with self._database.write(actor.tenant_id) as session:
            return self.create_in(session, actor, wish)

    def create_in(self, session: Session, actor: Actor, wish: KeyWish) -> NewKey:
        """The same, in a transaction with what the key is for."""
        self._check_maker(session, actor)
        if store.keys_in_use(session, actor.user_id, self._now()) >= _MOST:
            raise Conflict(f"You have {_MOST} keys in use.", hint="Revoke those that nobody needs: `tune keys list`.")
        return self.add(session, actor.tenant_id, actor.user_id, wish)

    def add(self, session: Session, tenant_id: str, user_id: str, wish: KeyWish) -> NewKey:
        """The same, in a transaction of the caller's that has asked nobody."""
        now = self._now()
        key_id = ids.new(ids.KEY)
        secret = fresh(PREFIX + key_id.removeprefix(f"{ids.KEY}_"))
        row = store.KeyRow(
            id=key_id,
            tenant_id=tenant_id,
            user_id=user_id,
            name=wish.name,
            sha256=digest(secret),
            prefix=secret[:_SHOWN],
            created_at=now,
            expires_at=None if wish.expires_in_days is None else now + timedelta(days=wish.expires_in_days),
            scopes=None if wish.scopes is None else " ".join(sorted(set(wish.scopes))),
            audience=wish.audience,
            spend_cap_micro_usd=wish.spend_cap_micro_usd,
        )
        session.add(row)
        return NewKey(secret=secret, key=_key(row))

    def list(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Key]:
        """The caller's keys, newest first; an admin sees the whole team's. Raises: CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            query = store.keys_of(None if actor.role is Role.ADMIN else actor.user_id)
            rows, cursor = page(session, query, store.KeyRow, after=after, limit=limit)
            return Page[Key](data=[_key(row) for row in rows], next_cursor=cursor)

    def revoke(self, actor: Actor, key_id: str) -> None:
        """Refused from the next request on. Once more does nothing. Raises: NotFound."""
        with self._database.write(actor.tenant_id) as session:
            self.revoke_in(session, actor, key_id)

    def revoke_in(self, session: Session, actor: Actor, key_id: str) -> None:
        """The same, in a transaction with what the key was for."""
        row = _theirs(session, actor, key_id)
        row.revoked_at = row.revoked_at or self._now()

    def rotate(self, actor: Actor, key_id: str, *, keep_old_hours: int = 24) -> NewKey:
        """A new key that may do what this one may; this one ends after `keep_old_hours`, so that nothing stands still.

        Only for one's own: the secret is for its holder. Raises: NotFound; Conflict where it has ended already.
        """
        now = self._now()
        with self._database.write(actor.tenant_id) as session:
            old = _theirs(session, actor, key_id)
            if old.user_id != actor.user_id:
                raise NotFound("key")
            if not _in_use(old, now):
                raise Conflict("This key has ended already.", hint="Make a new one: `tune keys create`.")
            # What may make no keys may still replace itself: what comes out can do no more, and for no longer.
            if old.id != actor.key_id:
                self._check_maker(session, actor)
            made = self.add(session, old.tenant_id, old.user_id, _wish(old))
            row = session.get_one(store.KeyRow, made.key.id)
            row.expires_at = old.expires_at
            # What the old one has spent is spent: a key could lift its own cap otherwise, by a rotation.
            row.spends_as = old.spends_as or old.id
            until = now + timedelta(hours=keep_old_hours)
            old.expires_at = until if old.expires_at is None else min(old.expires_at, until)
            return NewKey(secret=made.secret, key=_key(row))

    def every(self) -> list[Key]:
        """For those who run the server: all keys of all teams, oldest first."""
        with self._database.read(EVERY_TENANT) as session:
            return [_key(row) for row in session.scalars(store.keys_of(None).order_by(store.KeyRow.id))]

    def owner(self, key_id: str) -> Actor:
        """For those who run the server: the holder of this key, in its team. Raises: NotFound."""
        with self._database.read(EVERY_TENANT) as session:
            row = session.get(store.KeyRow, key_id)
        if row is None:
            raise NotFound("key", hint="List them with `luthier keys list`.")
        return Actor(tenant_id=row.tenant_id, user_id=row.user_id, role=Role.MEMBER)

    def acting(self, tenant_id: str, user_id: str, key_id: str | None) -> Actor:
        """Who asked for something with this key, for what is done later in their name; its spend cap goes on to bind it."""
        with self._database.read(tenant_id) as session:
            row = None if key_id is None else session.get(store.KeyRow, key_id)
        cap = row.spend_cap_micro_usd if row else None
        return Actor(tenant_id=tenant_id, user_id=user_id, role=Role.MEMBER, key_id=key_id, spend_cap_micro_usd=cap)

    def holder(self, secret: str, audience: Audience = Audience.API) -> Actor:
        """Who holds this key. Looked up anew on each request, so that what was revoked is refused at once.

        Raises: Unauthenticated, with the same words whatever is wrong with it.
        """
        if not secret.startswith(PREFIX) or len(secret) > 128:
            raise Unauthenticated
        now = self._now()
        found = store.by_key(self._database, digest(secret))
        if found is None or not _in_use(found[0], now) or found[0].audience != audience:
            raise Unauthenticated
        row, role = found
        self._uses.note(row.id, row.last_used_at, now)
        return Actor(
            tenant_id=row.tenant_id,
            user_id=row.user_id,
            role=Role(role),
            key_id=row.id,
            scopes=_scopes(row),
            spend_cap_micro_usd=row.spend_cap_micro_usd,
            spends_as=row.spends_as,
        )

    def close(self) -> None:
        """Write down what was used last."""
        self._uses.close()

    def _check_maker(self, session: Session, actor: Actor) -> None:
        row = None if actor.key_id is None else session.get(store.KeyRow, actor.key_id)
        if row is not None and (row.scopes, row.expires_at, row.spend_cap_micro_usd) != (None, None, None):
            raise Forbidden(
                "A key with scopes, an end or a spend cap makes no other keys: they could do more than it may.",
                hint="Log in (`tune login`), or use a key without limits.",
            )


class _Uses:
    """When each key was used last: written once a minute, by a thread of its own, so that no request waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def note(self, key_id: str, written: datetime | None, now: datetime) -> None:
        with self._lock:
            last = self._noted.get(key_id, written)
            if last is not None and timedelta(0) <= now - last < _NOTE_EVERY:
                return
            self._noted[key_id] = now
            self._pool = self._pool or ThreadPoolExecutor(1, "key-uses")
            self._pool.submit(self._write, key_id, now)

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _write(self, key_id: str, now: datetime) -> None:
        with suppress(DatabaseBusy), self._database.beat() as session:  # the next use writes it
            store.used(session, key_id, now)


def _theirs(session: Session, actor: Actor, key_id: str) -> store.KeyRow:
    row = session.get(store.KeyRow, key_id)
    if row is None or (row.user_id != actor.user_id and actor.role is not Role.ADMIN):
        raise NotFound("key")
    return row


def _in_use(row: store.KeyRow, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


def _scopes(row: store.KeyRow) -> frozenset[Scope] | None:
    return None if row.scopes is None else frozenset(Scope(scope) for scope in row.scopes.split())


def _wish(row: store.KeyRow) -> KeyWish:
    scopes = _scopes(row)
    return KeyWish(
        name=row.name,
        scopes=None if scopes is None else tuple(sorted(scopes)),
        audience=Audience(row.audience),
        spend_cap_usd=None if row.spend_cap_micro_usd is None else usd(row.spend_cap_micro_usd),
    )


def _key(row: store.KeyRow) -> Key:
    scopes = _scopes(row)
    return Key(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        user_id=row.user_id,
        scopes=None if scopes is None else tuple(sorted(scopes)),
        audience=Audience(row.audience),
        spend_cap_usd=None if row.spend_cap_micro_usd is None else usd(row.spend_cap_micro_usd),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
