"""Notifications on a real database, with a clock that tests move and a notifier that keeps what it was told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from luthier.accounts.types import Actor, Role
from luthier.backends.notifiers.memory import MemoryNotifier
from luthier.database import Database, Row
from luthier.notifications.courier import Courier
from luthier.notifications.queue import DeliveryQueue
from luthier.notifications.service import Means, Notifications
from luthier.notifications.types import Channel, NewEndpoint
from luthier.seams import Reply
from luthier.secret_box import SecretBox

ALICE = Actor("team_alice", "user_alice", Role.ADMIN)
BOB = Actor("team_bob", "user_bob", Role.ADMIN)


class Desk:
    """`replies` maps an address to what it answers: a reply, or a function of the news; 200 without it."""

    def __init__(self, folder) -> None:
        self.clock = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.database = Database(folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        self.replies = {}
        self.notifier = MemoryNotifier(self._answer)
        self.box = SecretBox(folder / "secrets.key")
        self.means = Means(dict.fromkeys(Channel, self.notifier), self.box)
        self.notifications = Notifications(self.database, self.means, self.now)
        self.queue = DeliveryQueue(self.database, self.box, self.now, lease_s=40)
        self.courier = Courier(self.queue, self.means.notifiers, poll_s=0.01)

    def now(self):
        return self.clock

    def pass_s(self, seconds):
        self.clock += timedelta(seconds=seconds)

    def _answer(self, news, address):
        reply = self.replies.get(address, Reply(200))
        return reply(news) if callable(reply) else reply

    def add(self, url="https://hooks.example.com/a", actor=ALICE, **more):
        return self.notifications.add(actor, NewEndpoint(url=url, **more))

    def publish(self, kind="job.failed", actor=ALICE, **data):
        with self.database.write(actor.tenant_id) as session:
            return self.notifications.publish(session, actor.tenant_id, kind, data)

    def deliveries(self, endpoint, actor=ALICE):
        return self.notifications.deliveries(actor, endpoint.id).data

    def told(self, address=None):
        """Ids of what was sent, in order."""
        return [news.id for news, where in self.notifier.told if address in (None, where)]

    def work(self):
        """Until nothing is to be done at this moment."""
        while self.courier.round():
            pass


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.database.close()
