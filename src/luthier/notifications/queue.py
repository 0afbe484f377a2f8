"""The sender's side of the outbox: spread events, claim deliveries by lease, note what became of them.

Any number of senders may work on one database. A lease that runs out is taken over: whatever was sent and not noted is sent
again, with the same id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from luthier import ids
from luthier.database import EVERY_TENANT, Database
from luthier.errors import SetupError
from luthier.notifications import rules, store
from luthier.notifications.rows import Sealed, address_hash, lock, unlock
from luthier.notifications.types import FOR_PEOPLE, Channel, DeliveryState
from luthier.seams import Clock, News, Reply
from luthier.secret_box import SecretBox

_MOST_EVENTS = 200
_MOST_OF_ONE = 8
_KEEP = timedelta(days=30)


@dataclass(frozen=True)
class Errand:
    """What one sender brings to one endpoint, in order."""

    owner: str
    channel: Channel
    sealed: Sealed
    failing: bool
    """Whether it failed when it was last told something."""
    news: Mapping[str, News]
    """By delivery."""


class DeliveryQueue:
    """Used by couriers only; what users may do is in `Notifications`. `lease_s` must be longer than an errand takes."""

    def __init__(self, database: Database, box: SecretBox, now: Clock, *, lease_s: float = 40) -> None:
        self._database = database
        self._box = box
        self._now = now
        self._lease = timedelta(seconds=lease_s)

    def has_work(self) -> bool:
        """Whether there may be something to do now. Only reads: an idle sender takes no lock."""
        with self._database.read(EVERY_TENANT) as session:
            return bool(store.unspread(session, 1) or store.ready(session, self._now(), 1))

    def spread(self) -> int:
        """Give new events to the endpoints that want them, each once. Returns how many events."""
        # Read before the lock is taken, for which submits wait: under it only the first sender finds them not spread yet.
        with self._database.read(EVERY_TENANT) as session:
            events = store.unspread(session, _MOST_EVENTS)
        if not events:
            return 0
        with self._database.beat() as session:
            mine = store.spread(session, [event.id for event in events], self._now())
            listening = store.listening(session, {event.tenant_id for event in events})
            wanted = [(endpoint, json.loads(endpoint.kinds)) for endpoint in listening]
            for event in events:
                session.add_all(
                    self._delivery(event, endpoint.id)
                    for endpoint, kinds in wanted
                    if event.id in mine
                    and endpoint.tenant_id in (event.tenant_id, store.PLATFORM)
                    and rules.wants(kinds, event.kind)
                )
        return len(mine)

    def claim(self, most: int, failing: int) -> list[Errand]:
        """Errands to at most `most` endpoints that nobody else runs to, and at most `failing` of these to such as failed last."""
        with self._database.read(EVERY_TENANT) as session:
            if not store.ready(session, self._now(), 1):
                return []
        with self._database.beat() as session:
            well = store.ready(session, self._now(), most, failing=False)
            ill = store.ready(session, self._now(), min(failing, most - len(well)), failing=True)
            found = [self._taken(session, endpoint) for endpoint in (*well, *ill)]
        return [errand for errand in found if errand is not None]

    def note(self, errand: Errand, delivery_id: str, reply: Reply) -> bool:
        """Write down what became of an attempt. False where the endpoint should be left alone for now."""
        with self._database.beat() as session:
            row = store.held(session, delivery_id, errand.owner)
            endpoint = None if row is None else store.endpoint(session, row.endpoint_id)
            if row is None or endpoint is None:
                return False
            row.attempts += 1
            verdict = rules.verdict(reply, row.attempts, endpoint.failures)
            waits = verdict.state is DeliveryState.WAITING
            row.state = verdict.state
            row.last_status, row.last_error = reply.status, reply.error
            row.next_at = self._now() + timedelta(seconds=verdict.wait_s) if waits else None
            row.delivered_at = self._now() if reply.told else None
            row.owner = row.leased_until = None
            endpoint.failures = 0 if reply.told else endpoint.failures + 1
            endpoint.rests_until = self._now() + timedelta(seconds=verdict.rest_s) if verdict.rest_s else None
            if verdict.disable is not None:
                _disable(session, endpoint, verdict.disable)
        return reply.told

    def give_back(self, errand: Errand) -> None:
        """Let go of what was not sent."""
        with self._database.beat() as session:
            store.give_back(session, errand.owner)

    def forget_old(self) -> None:
        """Remove what was told, or given up, a month ago."""
        with self._database.beat() as session:
            store.forget(session, self._now() - _KEEP)

    def keep_platform_endpoint(self, channel: Channel, address: str | None) -> None:
        """Make the endpoint of the settings what they say; without an address it is told nothing."""
        endpoint_id = f"{store.PLATFORM}-{channel}"
        with self._database.write(EVERY_TENANT) as session:
            row = store.endpoint(session, endpoint_id)
            if address is None:
                if row is not None:
                    row.enabled, row.disabled_reason = False, "The settings name none."
                return
            locked = lock(self._box, Sealed(address, None), endpoint_id)
            shown = rules.shown(channel, address)
            if row is None:
                row = store.EndpointRow(id=endpoint_id, tenant_id=store.PLATFORM, channel=channel, kinds=json.dumps(FOR_PEOPLE))
                row.description, row.created_by, row.created_at, row.failures = None, store.PLATFORM, self._now(), 0
                session.add(row)
            elif row.address_sha256 == address_hash(address) and row.enabled:
                return
            row.shown, row.address_sha256, row.locked = shown, address_hash(address), locked
            row.enabled, row.disabled_reason, row.rests_until = True, None, None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _delivery(self, event: store.EventRow, endpoint_id: str) -> store.DeliveryRow:
        return store.DeliveryRow(
            id=ids.new(ids.DELIVERY),
            tenant_id=event.tenant_id,
            event_id=event.id,
            endpoint_id=endpoint_id,
            kind=event.kind,
            state=DeliveryState.WAITING,
            next_at=self._now(),
            created_at=self._now(),
        )

    def _taken(self, session: Session, endpoint: store.EndpointRow) -> Errand | None:
        try:
            sealed = unlock(self._box, endpoint)
        except SetupError:  # the key file is another one by now: this endpoint is lost, the others are not
            _disable(session, endpoint, "Its secret cannot be read any more. Add it anew.")
            return None
        owner, news = ids.new(ids.DELIVERY), dict[str, News]()
        for row in store.due(session, endpoint.id, self._now(), _MOST_OF_ONE):
            event = store.event(session, row.event_id)
            if event is not None:
                row.owner, row.leased_until = owner, self._now() + self._lease
                news[row.id] = News(event.id, event.kind, event.created_at, json.loads(event.data), self._now())
        return Errand(owner, Channel(endpoint.channel), sealed, endpoint.failures > 0, news)


def _disable(session: Session, endpoint: store.EndpointRow, why: str) -> None:
    endpoint.enabled, endpoint.disabled_reason = False, why
    session.flush()
    store.drop_waiting(session, endpoint.id, "endpoint_disabled")
