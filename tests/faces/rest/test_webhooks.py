"""Webhooks over HTTP, both ways: group W of the catalogue, and what a job's owner gets to hear."""

import json
import re
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from luthier import ids, signatures, wiring
from luthier.backends.notifiers.memory import MemoryNotifier
from luthier.jobs.queue import Ending, JobQueue
from luthier.jobs.rules import Outcome
from luthier.jobs.types import JobState, Line
from luthier.notifications.types import Channel
from luthier.seams import Reply

from ...backends.receivers import http_server
from ...backends.test_outbound import REFUSED
from .conftest import World

ROOT = Path(__file__).parents[3]
GOOD_URL = "https://hooks.example.com/luthier"


def add(world, url=GOOD_URL, **more):
    return world.ask("POST", "/api/webhooks", json={"url": url, **more})


@pytest.mark.parametrize(("row", "url"), [(row, url) for row, urls in REFUSED.items() for url in urls])
def test_an_address_that_leads_nowhere_public_is_refused(shared, row, url):
    answer = add(shared, url)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "url"), (row, answer.text)
    assert shared.ask("GET", "/api/webhooks").json()["data"] == []


@pytest.mark.parametrize("channel", ["slack", "email"])
def test_w01_neither_does_slack_nor_mail_go_there(shared, channel):
    assert add(shared, "http://127.0.0.1/", channel=channel).status_code == 422


def test_w12_a_hundred_and_one_or_one_twice(world):
    for number in range(100):
        assert add(world, f"{GOOD_URL}/{number}").status_code == 201
    full, twice = add(world, f"{GOOD_URL}/100"), add(world, f"{GOOD_URL}/5")
    assert {(each.status_code, each.json()["error"]["code"]) for each in (full, twice)} == {(409, "endpoint_conflict")}
    short = add(world, f"{GOOD_URL}/101", secret="whsec_" + "QUJD" * 7)
    assert (short.status_code, short.json()["error"]["param"]) == (422, "secret")


def test_the_whole_life_of_an_endpoint(world):
    made = add(world, kinds=["job.*"]).json()
    path = f"/api/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    assert "secret" not in world.ask("GET", path).json()
    assert world.ask("PATCH", path, json={"enabled": False}).json()["enabled"] is False
    assert world.ask("PATCH", path, json={"url": "https://b.example"}).status_code == 422
    off = world.ask("POST", f"{path}/test")
    assert (off.status_code, off.json()["error"]["code"]) == (409, "wrong_state")
    assert world.ask("PATCH", path, json={"enabled": True}).json()["enabled"] is True
    assert world.ask("POST", f"{path}/test").status_code == 202
    assert [each["kind"] for each in world.ask("GET", f"{path}/deliveries").json()["data"]] == ["endpoint.test"]
    assert world.ask("DELETE", path).status_code == 204
    assert world.ask("GET", path).status_code == 404


def test_a_job_tells_of_each_step_in_its_own_transaction(tmp_path):
    notifier = MemoryNotifier()
    world = World(tmp_path / "data", notifiers=dict.fromkeys(Channel, notifier))
    try:
        assert add(world).status_code == 201
        job = world.job()
        world.ask("POST", f"/api/jobs/{job}/cancel")
        while wiring.courier(world.platform).round():
            pass
        told = [(news.kind, news.data["job_id"], news.data["from_state"]) for news, _ in notifier.told]
        assert sorted(told) == sorted([("job.queued", job, None), ("job.cancelled", job, "queued")])
    finally:
        world.platform.close()


def test_a_receiver_that_hangs_stalls_neither_submit_nor_the_queue(tmp_path):
    over = threading.Event()
    notifier = MemoryNotifier(lambda news, address: (over.wait(30), Reply(error="timeout"))[1])
    world = World(tmp_path / "data", notifiers=dict.fromkeys(Channel, notifier))
    stop = threading.Event()
    courier = threading.Thread(target=wiring.courier(world.platform).run, args=(stop,))
    courier.start()
    try:
        add(world)
        add(world, "https://hooks.slack.com/services/x", channel="slack", kinds=["*"])
        world.dataset  # noqa: B018  # made outside of what is measured
        began = time.monotonic()
        assert [world.submit().status_code for _ in range(10)] == [201] * 10
        used = (world.platform.datasets, world.platform.registry)
        queue = JobQueue(world.platform.database, world.platform.storage, world.platform.billing, used, world.platform.now)
        (held,) = queue.claim("tests", Line(frozenset({"local-cpu"})))
        queue.finish(held.fence, Ending(Outcome(JobState.FAILED, "test")))
        assert time.monotonic() - began < 10
        both = {GOOD_URL, "https://hooks.slack.com/services/x"}
        until = time.monotonic() + 20
        while {address for _, address in notifier.told} != both:
            assert time.monotonic() < until, notifier.told
            time.sleep(0.05)
    finally:
        over.set()
        stop.set()
        courier.join()
        world.platform.close()


def test_what_the_guide_says_about_checking_a_signature_is_true():
    page = (ROOT / "docs/how-to/get-notified.md").read_text("utf-8")
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], namespace)
    secret, body, stamp = signatures.new_secret(), b'{"type":"job.failed"}', int(time.time())

    def headers(at=stamp, by=secret):
        return {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(at),
            "webhook-signature": signatures.signature(by, "evt_1", at, body),
        }

    is_ours = namespace["is_ours"]
    assert is_ours(secret, headers(), body)
    assert not is_ours(secret, headers(), body + b" ")
    assert not is_ours(secret, headers(at=stamp - 400), body)
    assert not is_ours(secret, headers(by=signatures.new_secret()), body)


def test_a_real_receiver_checks_what_a_real_platform_sends(tmp_path):
    world = World(tmp_path / "data", notify_loopback=True)
    platform = world.platform
    try:
        with http_server() as (port, heard):
            made = add(world, f"http://127.0.0.1:{port}/in").json()
            world.ask("POST", f"/api/webhooks/{made['id']}/test")
            wiring.courier(platform).round()
        (headers, body) = heard.requests[0]
        assert signatures.is_signed(
            made["secret"],
            (headers["webhook-id"], headers["webhook-timestamp"], headers["webhook-signature"]),
            body,
            platform.now(),
        )
        assert json.loads(body)["type"] == "endpoint.test"
        (delivery,) = world.ask("GET", f"/api/webhooks/{made['id']}/deliveries").json()["data"]
        assert (delivery["state"], delivery["last_status"], delivery["event_id"]) == ("delivered", 200, headers["webhook-id"])
    finally:
        platform.close()


# -- inbound -----------------------------------------------------------------------------------------------------------


class Sender:
    """Somebody who knows the secret of a hook."""

    def __init__(self, world, **more):
        self.world = world
        run = {"base_model": "luthier/tiny", "dataset": world.dataset, "name": "nightly"}
        self.answer = world.ask("POST", "/api/hooks", json={"name": "nightly", "run": run, **more})
        self.made = self.answer.json()

    def call(self, body=b"", message="msg_1", late_s=0, secret=None, signed=None, path=None, **headers):
        at = int((self.world.platform.now() - timedelta(seconds=late_s)).timestamp())
        signature = signatures.signature(secret or self.made["secret"], message, at, body if signed is None else signed)
        sent = {"webhook-id": message, "webhook-timestamp": str(at), "webhook-signature": signature, **headers}
        return self.world.client.post(path or self.made["path"], content=body, headers=sent)


@pytest.fixture
def sender(world):
    return Sender(world)


def test_w11_a_signed_call_starts_the_run_once(sender):
    first = sender.call()
    assert first.status_code == 202, first.text
    again = sender.call()
    assert (again.status_code, again.json()["job"]["id"]) == (200, first.json()["job"]["id"])
    other = sender.call(message="msg_2")
    assert (other.status_code, other.json()["job"]["id"] == first.json()["job"]["id"]) == (202, False)
    assert len(sender.world.ask("GET", "/api/jobs").json()["data"]) == 2


def test_w11_whoever_does_not_know_the_secret_starts_nothing(sender):
    body = json.dumps({"dataset": sender.world.dataset}).encode()
    refused = [
        sender.call(secret=signatures.new_secret()),
        sender.call(late_s=301),
        sender.call(late_s=-301),
        sender.call(body, signed=json.dumps(json.loads(body), indent=1).encode()),
        sender.call(**{"webhook-signature": ""}),
        sender.call(**{"webhook-signature": "v1,\u00e9".encode()}),
        sender.call(**{"webhook-id": "msg_9"}),
        sender.call(message="a b"),
        sender.call(message="a" * 201),
        sender.call(path=f"/hooks/{ids.new(ids.HOOK)}"),
        sender.call(path="/hooks/x"),
        sender.world.client.post(sender.made["path"]),
        sender.world.client.post(sender.made["path"], headers={"x-api-key": sender.world.key}),
    ]
    assert [each.status_code for each in refused] == [401] * len(refused)
    bodies = [{**each.json()["error"], "request_id": ""} for each in refused]
    assert all(each == bodies[0] for each in bodies)
    assert bodies[0]["code"] == "unauthenticated"
    assert "Standard Webhooks" in bodies[0]["hint"]
    assert sender.world.ask("GET", "/api/jobs").json()["data"] == []


def test_a_call_gives_what_the_hook_lets_it_give_and_nothing_else(world):
    sender = Sender(world, overrides=["dataset", "name"])
    other = world.upload(query="?name=other").json()["id"]
    job = sender.call(json.dumps({"dataset": other, "name": "tuesday"}).encode()).json()["job"]
    assert (job["dataset"], job["name"]) == (other, "tuesday")
    wrong = {
        "hardware": {"hardware": "a100"},
        "limits": {"limits": {"max_cost_usd": "1000"}},
        "name": {"name": 7},
        "dataset": {"dataset": ""},
    }
    for number, (param, body) in enumerate(wrong.items()):
        refused = sender.call(json.dumps(body).encode(), message=f"wrong_{number}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, param), refused.text
    foreign = sender.call(json.dumps({"dataset": ids.new(ids.DATASET)}).encode(), message="foreign")
    assert foreign.status_code == 404
    for number, body in enumerate((b"[]", b"{", b'"x"', b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16"))):
        assert sender.call(body, message=f"junk_{number}").status_code == 400
    strange = (b"[" * 100_000, b'{"\\ud800": 1}', b'{"name": "\\ud800"}', b'{"name": "a", "name": "b"}', b'{"name": NaN}')
    for number, body in enumerate((*strange, b'{"a\\u001b[31m": 1}', b'{"name": ' + b"9" * 5000 + b"}")):
        refused = sender.call(body, message=f"strange_{number}")
        assert refused.status_code == 422, body
        assert "[31m" not in refused.text
    assert sender.call(b" " * 2_000_000, message="large").status_code == 413
    assert len(world.ask("GET", "/api/jobs").json()["data"]) == 1


def test_the_log_names_the_hook_that_is_made_and_whoever_calls_it_also_where_that_is_refused(sender):
    sender.call(b'{"hardware": "a100"}')
    sender.call(secret=signatures.new_secret())
    sender.world.ask("DELETE", f"/api/hooks/{sender.made['id']}")
    sender.world.platform.audit.keep(everything=True)
    rows = sender.world.ask("GET", "/api/audit", params={"on": sender.made["id"]}).json()["data"]
    told = {(row["action"], row["outcome"], row["key_id"] == sender.made["key_id"]) for row in rows}
    assert told == {("hooks.add", "changed", False), ("hooks.call", "refused", True), ("hooks.remove", "changed", False)}
    assert all(sender.made["key_id"] in row["resources"] for row in rows if row["outcome"] == "changed")


def test_a_refused_call_can_be_sent_again(sender):
    missing = json.dumps({"dataset": ids.new(ids.DATASET)}).encode()
    assert sender.call(missing).status_code == 404
    assert sender.call().status_code == 202


def test_its_key_opens_no_other_door_and_without_it_the_hook_is_shut(sender):
    key_id = sender.made["key_id"]
    (key,) = [each for each in sender.world.ask("GET", "/api/keys").json()["data"] if each["id"] == key_id]
    assert (key["audience"], key["name"]) == ("webhook", "hook nightly")
    assert sender.world.ask("DELETE", f"/api/keys/{key_id}").status_code == 204
    assert sender.call().status_code == 401


def test_the_cap_of_a_hook_is_kept_by_what_it_starts(world):
    sender = Sender(world, spend_cap_usd="0")
    refused = sender.call()
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exceeded"), refused.text
    assert world.submit().status_code == 201  # the cap is the hook's alone


def test_a_removed_hook_is_unknown(sender):
    assert sender.world.ask("GET", f"/api/hooks/{sender.made['id']}").json()["name"] == "nightly"
    assert "secret" not in sender.world.ask("GET", "/api/hooks").json()["data"][0]
    assert sender.world.ask("DELETE", f"/api/hooks/{sender.made['id']}").status_code == 204
    assert sender.call().status_code == 401
    assert sender.world.ask("GET", "/api/hooks").json()["data"] == []


def test_a_hook_whose_run_cannot_be_started_is_not_made(world):
    body = {"name": "x", "run": {"base_model": "luthier/tiny", "dataset": ids.new(ids.DATASET)}}
    assert world.ask("POST", "/api/hooks", json=body).status_code == 404
    assert world.ask("GET", "/api/hooks").json()["data"] == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("webhooks") / "data")
    yield world
    world.platform.close()
