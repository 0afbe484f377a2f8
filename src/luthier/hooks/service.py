"""Hooks: signed requests from outside that start a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from luthier import ids, signatures
from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor, Audience, Idempotency, KeyWish, Scope
from luthier.database import EVERY_TENANT, Database
from luthier.errors import Conflict, NotFound, Unauthenticated
from luthier.hooks import rules, store
from luthier.hooks.types import Believed, Call, CreatedHook, Hook, NewHook
from luthier.jobs.service import Jobs
from luthier.jobs.types import Submitted
from luthier.seams import Clock
from luthier.secret_box import SecretBox

_MOST = 100
_MOST_NAME = 100
# What an unknown hook is compared with, so that its answer takes as long as that of a known one.
_NOBODYS = signatures.new_secret()


class Hooks:
    """What a team lets others start, with whose rights, and up to what cost."""

    def __init__(self, database: Database, accounts: Accounts, jobs: Jobs, box: SecretBox, now: Clock) -> None:
        self._database = database
        self._accounts = accounts
        self._jobs = jobs
        self._box = box
        self._now = now

    def add(self, actor: Actor, wanted: NewHook) -> CreatedHook:
        """A new hook, with a key of its own and the secret that its callers sign with.

        Raises: whatever an estimate of its run raises; Conflict at 100 hooks; Forbidden for a key that may make no keys.
        """
        self._jobs.estimate(actor, wanted.run)
        wish = KeyWish(
            name=f"hook {wanted.name}"[:_MOST_NAME],
            scopes=(Scope.READ, Scope.WRITE),
            audience=Audience.WEBHOOK,
            spend_cap_usd=wanted.spend_cap_usd,
        )
        secret, hook_id = signatures.new_secret(), ids.new(ids.HOOK)
        with self._database.write(actor.tenant_id) as session:
            if len(store.hooks(session)) >= _MOST:
                raise Conflict(f"A team has at most {_MOST} hooks.", hint="Remove one first: `tune hooks list`.")
            key = self._accounts.keys.create_in(session, actor, wish)
            row = store.HookRow(
                id=hook_id,
                tenant_id=actor.tenant_id,
                name=wanted.name,
                template=wanted.run.model_dump_json(exclude_defaults=True),
                overrides=json.dumps(wanted.overrides),
                spend_cap_usd=wanted.spend_cap_usd,
                key_id=key.key.id,
                locked=self._box.lock(json.dumps({"secret": secret, "key": key.secret}), hook_id),
                created_by=actor.user_id,
                created_at=self._now(),
            )
            session.add(row)
        return CreatedHook(**_hook(row).model_dump(), secret=secret)

    def list(self, actor: Actor) -> list[Hook]:
        """All hooks of the team, newest first."""
        with self._database.read(actor.tenant_id) as session:
            return [_hook(row) for row in store.hooks(session)]

    def get(self, actor: Actor, hook_id: str) -> Hook:
        """One hook. Raises: NotFound."""
        with self._database.read(actor.tenant_id) as session:
            return _hook(_found(session, hook_id))

    def remove(self, actor: Actor, hook_id: str) -> None:
        """Refused from the next call on, and so is its key. What it started goes on. Raises: NotFound."""
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, hook_id)
            session.delete(row)
            self._accounts.keys.revoke_in(session, actor, row.key_id)

    def believed(self, hook_id: str, call: Call) -> Believed:
        """In whose name a call is made, and what it starts, if it is signed by whoever knows the secret, and now.

        Nothing of its body is read. Raises: Unauthenticated, with the same words
        whatever is wrong with the hook, the signature, the time or the key.
        """
        with self._database.read(EVERY_TENANT) as session:
            row = store.hook(session, hook_id)
        opened: dict[str, str] = {"secret": _NOBODYS} if row is None else json.loads(self._box.unlock(row.locked, row.id))
        signed = signatures.is_signed(opened["secret"], (call.id, call.stamp, call.signature), call.body, self._now())
        if row is None or not signed or not rules.is_message_id(call.id):
            raise _not_signed()
        try:
            actor = self._accounts.keys.holder(opened["key"], Audience.WEBHOOK)
        except Unauthenticated:
            raise _not_signed() from None
        # The id alone says what is the same: a second message of this name is the first one, sent again.
        key = f"{row.id}:{call.id}"
        once = Idempotency(key=key, request_sha256=hashlib.sha256(key.encode()).hexdigest())
        return Believed(actor, row.template, tuple(json.loads(row.overrides)), once)

    def start(self, believed: Believed, given: Mapping[str, Any]) -> Submitted:
        """Queue the run with the fields that the call gives, or find the one that the same call started before.

        Raises: FieldInvalid for a field that it may not give; what `Jobs.submit` raises.
        """
        spec = rules.run_of(believed.template, believed.overrides, given)
        return self._jobs.submit(believed.actor, spec, believed.idempotency)


def _not_signed() -> Unauthenticated:
    return Unauthenticated(
        "This is no hook's signature of now: the hook, its key, the secret, the time or the body is another one.",
        hint="Sign `webhook-id.webhook-timestamp.body` with the hook's secret, as Standard Webhooks says, and at once.",
    )


def _found(session: Session, hook_id: str) -> store.HookRow:
    row = store.hook(session, hook_id)
    if row is None:
        raise NotFound("hook")
    return row


def _hook(row: store.HookRow) -> Hook:
    return Hook(
        id=row.id,
        name=row.name,
        path=f"/hooks/{row.id}",
        run=json.loads(row.template),
        overrides=tuple(json.loads(row.overrides)),
        spend_cap_usd=row.spend_cap_usd,
        key_id=row.key_id,
        created_by=row.created_by,
        created_at=row.created_at,
    )
