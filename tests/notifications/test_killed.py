"""A courier that is killed with SIGKILL while a receiver has its request: told again, under the same id."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

from luthier.backends.notifiers.webhook import WebhookNotifier
from luthier.backends.outbound import Guard
from luthier.notifications.courier import Courier
from luthier.notifications.queue import DeliveryQueue
from luthier.notifications.service import Means, Notifications
from luthier.notifications.types import Channel, NewEndpoint

from ..backends.receivers import http_server
from .conftest import ALICE

COURIER = """
import sys, threading
from datetime import UTC, datetime
from pathlib import Path
from luthier.backends.notifiers.webhook import WebhookNotifier
from luthier.backends.outbound import Guard
from luthier.database import Database
from luthier.notifications.courier import Courier
from luthier.notifications.queue import DeliveryQueue
from luthier.notifications.types import Channel
from luthier.secret_box import SecretBox

folder = Path(sys.argv[1])
queue = DeliveryQueue(Database(folder / "luthier.db"), SecretBox(folder / "secrets.key"), lambda: datetime.now(UTC), lease_s=2)
notifier = WebhookNotifier(Guard(connect_s=10, total_s=10, loopback=True))
Courier(queue, {Channel.WEBHOOK: notifier}, poll_s=0.02).run(threading.Event())
"""


def wait_for(what, seconds=20):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_courier_that_is_killed_in_mid_delivery_is_replaced(desk):
    notifier = WebhookNotifier(Guard(connect_s=10, total_s=10, loopback=True))
    now = lambda: datetime.now(UTC)  # noqa: E731
    service = Notifications(desk.database, Means({Channel.WEBHOOK: notifier}, desk.box), now)
    queue = DeliveryQueue(desk.database, desk.box, now, lease_s=2)
    with http_server() as (port, heard):
        endpoint = service.add(ALICE, NewEndpoint(url=f"http://127.0.0.1:{port}/"))
        with desk.database.write(ALICE.tenant_id) as session:
            event = service.publish(session, ALICE.tenant_id, "job.succeeded", {"job_id": "job_1"})
        heard.silent = True
        child = subprocess.Popen([sys.executable, "-c", COURIER, desk.database.path.parent])
        try:
            wait_for(lambda: heard.requests)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        heard.silent = False
        heard.over.set()
        courier = Courier(queue, {Channel.WEBHOOK: notifier})
        assert courier.round() == 0  # the dead one still holds it
        wait_for(courier.round)
        (first, body), (second, again) = heard.requests
    assert first["webhook-id"] == second["webhook-id"] == event
    assert body == again
    assert [each.state for each in service.deliveries(ALICE, endpoint.id).data] == ["delivered"]
