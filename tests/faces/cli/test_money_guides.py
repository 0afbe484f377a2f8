"""The how-tos about money: each command in them is run, in order, on one server."""

import json

import pytest

from luthier import ids
from luthier.billing.rules import period_of
from luthier.billing.types import Hold, Segment
from luthier.errors import FieldInvalid, KeyReused, NotFound

from .test_identity_guides import Reader, commands


def charged(world, seconds=3600):
    """A job that was charged ten dollars an hour."""
    job_id, tenant_id, billing = ids.new(ids.JOB), world.actor.tenant_id, world.platform.billing
    with world.platform.database.write(tenant_id) as session:
        billing.hold(session, world.actor, Hold(job_id, "A100", 20_000_000))
        billing.beat(session, Segment(tenant_id, job_id, 1, 1, "A100", world.platform.now(), seconds * 1000))
        billing.settle(session, tenant_id, job_id)
    return job_id


def test_set_a_budget(world, terminal):
    reader = Reader(world, terminal)
    reader.seen["user"] = world.actor.user_id
    for line in commands("set-a-budget.md"):
        if line.startswith(("tune approve", "tune reject")):
            world.platform.billing.set_price("local-cpu", "90000.00")
            reader.seen["job"] = world.job()
        reader.run(line)
    assert "No budget" in terminal("tune", "budget").out
    job = world.ask("GET", f"/api/jobs/{reader.seen['job']}").json()
    assert job["state"] == "cancelled"


def test_read_the_bill(world, terminal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader, month = Reader(world, terminal), period_of(world.platform.now())
    reader.seen["job"] = charged(world)
    for line in commands("read-the-bill.md"):
        reader.run(line.replace("2026-11", month))
    assert reader.seen["job"] in (tmp_path / "bill.csv").read_text("utf-8")
    assert "Total $8.50" in terminal("tune", "billing", "--report", month).out


@pytest.mark.parametrize("guide", ["set-a-budget.md", "read-the-bill.md"])
def test_no_command_of_a_guide_was_overlooked(guide):
    assert len(commands(guide)) > 6
    assert {line.split()[0] for line in commands(guide)} <= {"luthier", "tune"}


def test_a_refund_is_given_once_a_key_and_never_more_than_was_charged(world, terminal):
    reader, job = Reader(world, terminal), charged(world)

    def refund(usd, job=job, key="ticket-7", reason="The GPU was broken."):
        words = ("--usd", usd, "--reason", reason, "--key", key, "--json")
        return json.loads(reader.console("billing", "refund", job, *words, "--data", str(world.platform.settings.data)))

    first = refund("1.50")
    assert (first["amount_usd"], first["job_id"]) == ("-1.50", job)
    assert refund("1.50") == first
    assert refund("8.50", key="ticket-8")["amount_usd"] == "-8.50"
    for error, words in (
        (KeyReused, {"usd": "1.00"}),
        (FieldInvalid, {"usd": "0.000001", "key": "ticket-9"}),
        (FieldInvalid, {"usd": "-1", "key": "ticket-9"}),
        (FieldInvalid, {"usd": "0.10", "key": "ticket-9", "reason": ""}),
        (NotFound, {"usd": "1.00", "job": ids.new(ids.JOB), "key": "ticket-9"}),
    ):
        with pytest.raises(error):
            refund(**words)
    assert len(world.ask("GET", "/api/billing/history").json()["data"]) == 3
    assert terminal("tune", "billing", "--history").out.count("The GPU was broken.") == 2
    assert terminal("tune", "billing", "--history", "--report", "2026-11").code == 2
