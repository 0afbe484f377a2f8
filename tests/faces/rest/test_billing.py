"""Prices, refunds and reports over HTTP: what was charged is never changed, and the parts sum to the whole."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from luthier.accounts.types import KeyWish
from luthier.billing import rules
from luthier.billing.types import Segment
from luthier.database import EVERY_TENANT

HOUR = 3_600_000


@pytest.fixture
def used(world):
    """A job that ran for an hour at $36, and was settled. Returns its id."""
    world.platform.billing.set_price("local-cpu", "36.00")
    job = world.job(name="intents")
    segment = Segment(world.actor.tenant_id, job, 1, 0, "local-cpu", world.platform.now(), HOUR)
    with world.platform.database.write(EVERY_TENANT) as session:
        world.platform.billing.beat(session, segment)
        world.platform.billing.settle(session, world.actor.tenant_id, job)
    return job


def report(world, **query):
    query = {"period": rules.period_of(world.platform.now()), **query}
    return world.ask("GET", "/api/billing/report", params=query)


def refund(world, job, amount="1.50", key="refund-1"):
    body = {"job_id": job, "amount_usd": amount, "reason": "The GPU was broken."}
    return world.ask("POST", "/api/billing/refunds", json=body, headers={"idempotency-key": key})


def test_b05_a_refund_with_the_same_key_is_one_negative_row(world, used):
    first, again = refund(world, used), refund(world, used)
    assert (first.status_code, first.json()["amount_usd"]) == (201, "-1.50")
    assert again.json()["id"] == first.json()["id"]
    assert sorted(row["amount_usd"] for row in world.ask("GET", "/api/billing/history").json()["data"]) == ["-1.50", "36.00"]
    assert refund(world, used, "2.00").json()["error"]["code"] == "idempotency_key_reused"


def test_never_more_is_refunded_than_was_charged(world, used):
    assert refund(world, used, "30.00").status_code == 201
    for amount in ("6.000001", "0"):
        assert refund(world, used, amount, "refund-2").json()["error"]["param"] == "amount_usd"
    assert refund(world, used, "6.00", "refund-2").status_code == 201
    assert report(world).json()["total_usd"] == "0.00"


def test_a_report_equals_the_ledger(world, used):
    refund(world, used)
    found = report(world).json()
    assert (found["charged_usd"], found["refunded_usd"], found["total_usd"]) == ("36.00", "1.50", "34.50")
    (job,) = found["jobs"]
    assert (job["job_id"], job["name"], job["user_id"]) == (used, "intents", world.actor.user_id)
    assert (job["seconds"], job["amount_usd"], job["refunded_usd"]) == (3600.0, "36.00", "1.50")
    assert found["by_user"][world.actor.user_id]["amount_usd"] == "36.00"
    assert found["by_hardware"]["local-cpu"]["amount_usd"] == "36.00"


def test_b06_a_cell_of_the_csv_is_no_formula_and_the_page_has_no_foreign_markup(world, used, monkeypatch):
    evil = '=HYPERLINK("http://x")<script>'
    monkeypatch.setattr(type(world.platform.jobs), "names", lambda *_: {used: evil})
    answer = report(world, format="csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["name"] for row in rows] == ["'" + evil]
    assert answer.headers["content-type"].startswith("text/csv")
    page = report(world, format="html").text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "total $36.00" in page
    people = {each.user_id: each.email for each in world.platform.accounts.teams.members(world.actor)}
    assert f"<td>{people[world.actor.user_id]}</td>" in page
    assert "The month is not over" in page


@pytest.mark.parametrize(
    "query",
    [
        *({"period": period} for period in ("2026-13", "2026-00", "26-11", "2026-11-01", "2126-11", "", "2026-11/2026-10")),
        {"tz": "Mars/X"},
        {"format": "pdf"},
    ],
)
def test_b01_a_month_that_is_none_is_refused(world, query):
    assert report(world, **query).status_code == 422


def test_b08_another_teams_money_is_not_there(world, used):
    stranger = world.stranger
    assert world.platform.billing.report(stranger, rules.period_of(world.platform.now()), lambda _: {}).jobs == ()
    assert world.platform.billing.budgets.list(stranger) == []
    mine = replace(stranger, tenant_id=world.actor.tenant_id)
    assert len(world.platform.billing.history(mine).data) == 1
    assert world.platform.billing.history(stranger).data == []


def test_prices_and_refunds_are_for_the_admins_of_the_platforms_own_team(world, used):
    path = "/api/billing/pricing/local-cpu"
    assert world.ask("PUT", path, json={"hourly_usd": "1.50"}).json()["hourly_usd"] == "1.50"
    for wrong in ("-1", "0.0000001", "NaN", 1.5):
        assert world.ask("PUT", path, json={"hourly_usd": wrong}).status_code == 422
    assert world.ask("PUT", "/api/billing/pricing/none", json={"hourly_usd": "1.50"}).status_code == 404
    other = world.platform.accounts.teams.create(replace(world.actor, key_id=None), "Other")
    elsewhere = replace(world.actor, tenant_id=other.id, key_id=None)
    key = world.platform.accounts.keys.create(elsewhere, KeyWish(name="other")).secret
    for method, where, body in (
        ("PUT", path, {"hourly_usd": "0.01"}),
        ("POST", "/api/billing/refunds", {"job_id": used, "amount_usd": "1.00", "reason": "mine"}),
    ):
        assert world.ask(method, where, json=body, headers={"x-api-key": key}).status_code == 403


def test_a_job_over_the_months_end_is_in_both_months(world):
    world.platform.billing.set_price("local-cpu", "0.01")
    job = world.job()
    began = datetime(2026, 10, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    with world.platform.database.write(EVERY_TENANT) as session:
        world.platform.billing.beat(session, Segment(world.actor.tenant_id, job, 1, 0, "local-cpu", began, HOUR))
        whole = world.platform.billing.settle(session, world.actor.tenant_id, job)
    parts = [report(world, period=period).json()["total_usd"] for period in ("2026-10", "2026-11")]
    assert sum(rules.micro_usd(part) for part in parts) == whole == 10_000
