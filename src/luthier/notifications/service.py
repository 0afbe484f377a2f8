"""Notifications: what a team is told, and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from luthier import ids, signatures
from luthier.accounts.types import Actor
from luthier.database import EVERY_TENANT, Database, page
from luthier.errors import EndpointConflict, FieldInvalid, NotFound, WrongState
from luthier.notifications import outbox, rules, store
from luthier.notifications.rows import Sealed, address_hash, delivery_of, endpoint_of, lock, unlock
from luthier.notifications.types import (
    FOR_PEOPLE,
    Channel,
    CreatedEndpoint,
    Delivery,
    DeliveryState,
    Endpoint,
    EndpointChange,
    NewEndpoint,
)
from luthier.seams import Clock, Notifier, NotSendable
from luthier.secret_box import SecretBox
from luthier.values import Page


@dataclass(frozen=True)
class Means:
    """What notifications are sent with, and what keeps their secrets."""

    notifiers: Mapping[Channel, Notifier]
    box: SecretBox


class Notifications:
    """Events go out to the endpoints that a team names. Nothing is sent from here: a courier does it afterwards."""

    def __init__(self, database: Database, means: Means, now: Clock) -> None:
        self._database = database
        self._means = means
        self._now = now

    def publish(self, session: Session, tenant_id: str, kind: str, data: Mapping[str, Any]) -> str:
        """Write an event into the caller's transaction: it is told if that commits, and never otherwise. Returns its id."""
        return outbox.publish(session, tenant_id, kind, data, at=self._now())

    def teams_since(self, since: datetime) -> set[str]:
        """Whom something happened to from that time on, give or take a millisecond."""
        with self._database.read(EVERY_TENANT) as session:
            return outbox.tenants_since(session, since)

    def add(self, actor: Actor, wanted: NewEndpoint) -> CreatedEndpoint:
        """A new endpoint; a webhook comes with the secret that signs it. Raises: FieldInvalid, EndpointConflict."""
        self._sendable(wanted)
        secret = _secret(wanted)
        row = store.EndpointRow(
            id=ids.new(ids.WEBHOOK),
            tenant_id=actor.tenant_id,
            channel=wanted.channel,
            shown=rules.shown(wanted.channel, wanted.url),
            address_sha256=address_hash(wanted.url),
            kinds=json.dumps(wanted.kinds or (("*",) if wanted.channel is Channel.WEBHOOK else FOR_PEOPLE)),
            description=wanted.description,
            enabled=True,
            failures=0,
            created_by=actor.user_id,
            created_at=self._now(),
        )
        row.locked = lock(self._means.box, Sealed(wanted.url, secret), row.id)
        with self._database.write(actor.tenant_id) as session:
            if store.has_address(session, row.address_sha256):
                raise EndpointConflict("Your team has an endpoint with this address.", hint="`tune webhooks list` shows it.")
            if len(store.endpoints(session)) >= rules.MOST_ENDPOINTS:
                raise EndpointConflict(f"A team has at most {rules.MOST_ENDPOINTS} endpoints.", hint="Remove one first.")
            session.add(row)
        return CreatedEndpoint(**endpoint_of(row).model_dump(), secret=secret)

    def list(self, actor: Actor) -> list[Endpoint]:
        """All endpoints of the team, newest first."""
        with self._database.read(actor.tenant_id) as session:
            return [endpoint_of(row) for row in store.endpoints(session)]

    def get(self, actor: Actor, endpoint_id: str) -> Endpoint:
        """One endpoint. Raises: NotFound."""
        with self._database.read(actor.tenant_id) as session:
            return endpoint_of(_found(session, endpoint_id))

    def change(self, actor: Actor, endpoint_id: str, wanted: EndpointChange) -> Endpoint:
        """Other kinds, on or off. One that is switched on again is not held to have failed before. Raises: NotFound."""
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, endpoint_id)
            if wanted.kinds is not None:
                row.kinds = json.dumps(wanted.kinds)
            if wanted.enabled is not None:
                row.enabled, row.failures, row.rests_until = wanted.enabled, 0, None
                row.disabled_reason = None if wanted.enabled else "Switched off."
            if wanted.enabled is False:
                store.drop_waiting(session, row.id, "endpoint_disabled")
            return endpoint_of(row)

    def rotate(self, actor: Actor, endpoint_id: str) -> CreatedEndpoint:
        """A new secret; the one before signs beside it for a day. Raises: NotFound, FieldInvalid for what is not signed."""
        secret = signatures.new_secret()
        with self._database.write(actor.tenant_id) as session:
            row = _found(session, endpoint_id)
            if row.channel != Channel.WEBHOOK:
                raise FieldInvalid("Only webhooks are signed.", hint="This one has no secret to replace.", param="webhook_id")
            sealed = unlock(self._means.box, row).rotated(secret, self._now() + rules.SECRETS_OVERLAP)
            row.locked = lock(self._means.box, sealed, row.id)
            return CreatedEndpoint(**endpoint_of(row).model_dump(), secret=secret)

    def remove(self, actor: Actor, endpoint_id: str) -> None:
        """Tell it nothing more, and forget what it was told. Raises: NotFound."""
        with self._database.write(actor.tenant_id) as session:
            store.remove(session, _found(session, endpoint_id))

    def test(self, actor: Actor, endpoint_id: str) -> Delivery:
        """Queue one event for this endpoint alone. Raises: NotFound; WrongState where it is switched off."""
        with self._database.write(actor.tenant_id) as session:
            row, now = _found(session, endpoint_id), self._now()
            if not row.enabled:
                why = f"This endpoint is told nothing. {row.disabled_reason or 'It is switched off.'}"
                raise WrongState(why, hint=f"Switch it on first: `tune webhooks change {row.id} --on`.")
            # It rests no longer: whoever tests has mended it, and waits for the answer.
            row.rests_until = None
            told = {"endpoint_id": row.id, "asked_by": actor.user_id}
            event = outbox.event(actor.tenant_id, "endpoint.test", told, at=now)
            event.spread_at = now
            made = store.DeliveryRow(
                id=ids.new(ids.DELIVERY),
                tenant_id=actor.tenant_id,
                event_id=event.id,
                endpoint_id=row.id,
                kind="endpoint.test",
                state=DeliveryState.WAITING,
                attempts=0,
                next_at=now,
                created_at=now,
            )
            session.add_all([event, made])
            return delivery_of(made)

    def deliveries(self, actor: Actor, endpoint_id: str, *, after: str | None = None, limit: int = 50) -> Page[Delivery]:
        """What became of the events that it was given, newest first. Raises: NotFound, CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            _found(session, endpoint_id)
            rows, cursor = page(session, store.deliveries(endpoint_id), store.DeliveryRow, after=after, limit=limit)
            return Page(data=[delivery_of(row) for row in rows], next_cursor=cursor)

    def _sendable(self, wanted: NewEndpoint) -> None:
        try:
            self._means.notifiers[wanted.channel].check(wanted.url)
        except NotSendable as error:
            raise FieldInvalid(f"Nothing can be sent there: {error}.", hint=_HINTS[wanted.channel], param="url") from None


_HINTS = {
    Channel.WEBHOOK: "Give an https address of a public server, on port 443 or 8443.",
    Channel.SLACK: "Give the address of an incoming webhook, as Slack shows it.",
    Channel.EMAIL: "Give the address of a mailbox; an admin of the server sets LUTHIER_SMTP_HOST.",
}


def _secret(wanted: NewEndpoint) -> str | None:
    if wanted.channel is not Channel.WEBHOOK:
        if wanted.secret is not None:
            raise FieldInvalid("Only webhooks are signed.", hint="Leave `secret` out.", param="secret")
        return None
    if wanted.secret is None:
        return signatures.new_secret()
    try:
        signatures.key_of(wanted.secret)
    except ValueError as error:
        raise FieldInvalid(f"This cannot sign: {error}.", hint="Leave it out, and one is made.", param="secret") from None
    return wanted.secret


def _found(session: Session, endpoint_id: str) -> store.EndpointRow:
    row = store.endpoint(session, endpoint_id)
    if row is None:
        raise NotFound("webhook")
    return row
