"""`tune webhooks` and `tune hooks` against the real REST app."""

import threading

import pytest

from luthier import signatures, wiring
from luthier.backends.notifiers.memory import MemoryNotifier
from luthier.notifications.types import Channel
from luthier.seams import Reply

from ..rest.conftest import World
from .conftest import serving

URL = "https://hooks.example.com/in"


class Told(MemoryNotifier):
    """Answers 500 where an address ends in `/down`."""

    def __init__(self):
        super().__init__(lambda news, address: Reply(500, "refused") if address.endswith("/down") else Reply(200))


@pytest.fixture
def world(tmp_path, terminal):
    told = dict.fromkeys(Channel, Told())
    with serving(World(tmp_path / "data", notifiers=told), terminal) as world:
        yield world


@pytest.fixture
def courier(world):
    stop = threading.Event()
    thread = threading.Thread(target=wiring.courier(world.platform).run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def test_an_endpoint_is_added_tested_and_removed(terminal, courier):
    added = terminal("tune", "webhooks", "add", URL, "--kind", "job.failed", "--kind", "budget.alert")
    webhook, secret = added.out.splitlines()
    assert (added.code, webhook[:3], secret[:6]) == (0, "wh_", "whsec_")
    assert "shown this once" in added.err
    listed = terminal("tune", "webhooks", "list")
    assert URL in listed.out
    assert "job.failed budget.alert" in listed.out
    assert secret not in listed.out
    tested = terminal("tune", "webhooks", "test", webhook)
    assert tested.code == 0
    assert "with status 200" in tested.out
    (sent,) = terminal("tune", "webhooks", "deliveries", webhook, "--json").json["data"]
    assert (sent["kind"], sent["state"]) == ("endpoint.test", "delivered")
    rotated = terminal("tune", "webhooks", "rotate", webhook, "--yes")
    assert (rotated.code, rotated.out[:6], rotated.out.strip() != secret) == (0, "whsec_", True)
    assert "both sign" in rotated.err
    changed = terminal("tune", "webhooks", "change", webhook, "--off", "--kind", "*")
    assert "off, and told of: *" in changed.err
    assert terminal("tune", "webhooks", "remove", webhook, "--yes").code == 0
    assert terminal("tune", "webhooks", "list", "--json").json == {"data": []}


def test_a_test_that_is_not_taken_ends_with_1(terminal, courier):
    webhook = terminal("tune", "webhooks", "add", f"{URL}/down").out.splitlines()[0]
    tested = terminal("tune", "webhooks", "test", webhook)
    assert tested.code == 1
    assert "did not take" in tested.err
    assert "500 refused" in tested.err
    assert "500 refused" in terminal("tune", "webhooks", "deliveries", webhook).out


def test_a_mailbox_has_no_secret(world, terminal):
    added = terminal("tune", "webhooks", "add", "ops@example.com", "--channel", "email")
    assert len(added.out.splitlines()) == 1
    assert "ops@example.com" in terminal("tune", "webhooks", "list").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("webhooks", "add", "http//x"), "Nothing can be sent there"),
        (("webhooks", "add", URL, "--kind", "job.exploded"), "o event is called so"),
        (("webhooks", "add", URL, "--channel", "pigeon"), "channel"),
        (("webhooks", "test", "../x"), "not the id of an endpoint"),
        (("webhooks", "change", "wh_01kagz3vqdfyxtqn4w5b9zn8r2"), "Change what?"),
        (("webhooks", "remove", "wh_01kagz3vqdfyxtqn4w5b9zn8r2", "--yes"), "webhook"),
        (("hooks", "remove", "job_1", "--yes"), "not the id of a hook"),
        (("hooks", "add", "x", "--model", "luthier/tiny", "--dataset", "ds_01kagz3vqdfyxtqn4w5b9zn8r2"), "dataset"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(world, terminal, arguments, says):
    ended = terminal("tune", *arguments)
    assert ended.code in {1, 2, 4}
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_a_hook_is_added_called_and_removed(world, terminal):
    run = ("--model", "luthier/tiny", "--dataset", world.dataset)
    added = terminal("tune", "hooks", "add", "nightly", *run, "--allow", "name", "--spend-cap-usd", "5")
    hook, secret = added.out.splitlines()
    assert (hook[:5], secret[:6]) == ("hook_", "whsec_")
    listed = terminal("tune", "hooks", "list").out
    assert "nightly" in listed
    assert "$5.00" in listed
    stamp = int(world.platform.now().timestamp())
    body = b'{"name": "tuesday"}'
    signed = signatures.signature(secret, "m1", stamp, body)
    headers = {"webhook-id": "m1", "webhook-timestamp": str(stamp), "webhook-signature": signed}
    assert world.client.post(f"/hooks/{hook}", content=body, headers=headers).json()["job"]["name"] == "tuesday"
    assert "tuesday" in terminal("tune", "list").out
    assert terminal("tune", "hooks", "remove", hook, "--yes").code == 0
    assert terminal("tune", "hooks", "list", "--json").json == {"data": []}
