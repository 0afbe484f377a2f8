"""Money over HTTP: budgets that bite, jobs that wait for approval, who may see and set what."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import select
from tests.faces.rest.conftest import listening

from luthier.billing import rules
from luthier.billing.budget_store import AlertRow
from luthier.database import EVERY_TENANT
from luthier.jobs.store import JobRow
from luthier.notifications.outbox import EventRow

CPU = "local-cpu"


def costs(world, hourly_usd="36.00"):
    """From now on the processors of this machine cost something; returns what the smallest job is held for."""
    world.platform.billing.set_price(CPU, hourly_usd)
    estimate = world.ask("POST", "/api/jobs/estimate", json=world.spec()).json()
    return rules.micro_usd(estimate["cost_usd"])


def budget(world, micro_usd, **more):
    limit = None if micro_usd is None else rules.usd(micro_usd)
    return world.ask("PUT", "/api/budgets", json={"limit_usd": limit, **more})


def rows(world, table, **of):
    with world.platform.database.read(EVERY_TENANT) as session:
        return list(session.scalars(select(table).filter_by(**of)))


def test_j27_a_job_that_the_budget_does_not_hold_is_refused_and_nothing_is_reserved(world):
    job = costs(world)
    assert budget(world, job - 1).status_code == 200
    answer = world.submit()
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (402, "budget_exceeded")
    seeds = {name: body[name] for name in ("approved", "reason", "current", "limit", "requested")}
    amounts = {"current": 0.0, "limit": (job - 1) / 1e6, "requested": job / 1e6}
    assert seeds == {"approved": False, "reason": "Budget exceeded", **amounts}
    assert "your team" in body["error"]["message"]
    assert world.ask("GET", "/api/billing/usage").json()["held_usd"] == "0.00"
    assert rows(world, JobRow) == []
    assert not list((world.platform.settings.data / "users").glob("*/jobs/*"))


def test_a_key_that_replaces_itself_spends_from_the_same_cap(world):
    job = costs(world)
    wish = {"name": "capped", "spend_cap_usd": rules.usd(2 * job - 1)}
    key = world.ask("POST", "/api/keys", json=wish).json()

    def with_it(path, body):
        return world.ask("POST", path, json=body, headers={"x-api-key": key["secret"]})

    assert with_it("/api/jobs", world.spec()).status_code == 201
    for _ in range(2):  # twice: the third key stands for the second one, which has spent nothing itself
        key = with_it(f"/api/keys/{key['key']['id']}/rotate", {}).json()
        answer = with_it("/api/jobs", world.spec())
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_exceeded")
        assert "the spend cap of this key" in answer.json()["error"]["message"]


def test_a_refusal_over_less_than_a_cent_tells_both_amounts(world):
    job = costs(world, "0.01")
    budget(world, job - 1)
    message = world.submit().json()["error"]["message"]
    assert f"needs about ${rules.usd(job)}; the budget of your team has ${rules.usd(job - 1)} left" in message


def test_what_would_cost_more_than_a_billion_is_estimated_and_not_taken_in(world):
    costs(world, "999999999")
    spec = world.spec(train={"max_steps": 10_000_000})
    answer = world.ask("POST", "/api/jobs/estimate", json=spec)
    assert (answer.status_code, rules.micro_usd(answer.json()["cost_usd"]) > 10**15) == (200, True)
    refused = world.submit(train=spec["train"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "hardware")
    assert "$1,000,000,000 can be held" in refused.json()["error"]["message"]
    assert rows(world, JobRow) == []


def test_j28_a_hundred_at_once_cannot_share_the_last_dollar(world):
    job = costs(world)
    assert budget(world, 3 * job).status_code == 200
    spec = world.spec()
    with (
        listening(world) as url,
        httpx.Client(base_url=url, headers={"x-api-key": world.key}, timeout=120) as client,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = list(pool.map(lambda _: patiently(client, spec), range(100)))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 402: 97}
    assert len(rows(world, JobRow)) == 3
    (team,) = world.ask("GET", "/api/budgets").json()["data"]
    assert (team["of"], team["held_usd"], team["left_usd"]) == ("team", rules.usd(3 * job), "0.00")


def patiently(client, spec):
    """A busy database is 503 with `Retry-After`: tried again, as the SDK does."""
    while True:
        answer = client.post("/api/jobs", json=spec)
        if answer.status_code != 503:
            return answer


def test_a_user_has_a_budget_of_its_own_and_zero_stops_even_what_is_free(world):
    user = world.actor.user_id
    assert budget(world, 0, user_id=user).json()["data"][0]["user_id"] == user
    answer = world.submit()
    assert answer.status_code == 402
    assert "your own budget" in answer.json()["error"]["message"]
    assert budget(world, None, user_id=user).json()["data"] == []
    assert world.submit().status_code == 201


@pytest.mark.parametrize("limit", ["-1", "1000000000", "1000000000000000000", "0.00000001", "NaN", "1e3", "$5", "", 5, True])
def test_b02_a_budget_that_is_no_amount_is_refused(world, limit):
    answer = world.ask("PUT", "/api/budgets", json={"limit_usd": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "limit_usd")
    assert "below a billion" in answer.json()["error"]["message"]
    assert world.ask("GET", "/api/budgets").json()["data"] == []


def test_a_budget_for_somebody_who_is_not_in_the_team_is_not_found(world):
    for user in (world.stranger.user_id, "nobody", "../x"):
        assert budget(world, 1, user_id=user).status_code == 404


def test_the_budget_of_somebody_who_has_left_can_be_ended_and_not_changed(world):
    left = world.stranger.user_id
    world.platform.billing.budgets.set(world.actor, 5_000_000, left)  # when they were here
    assert budget(world, 1, user_id=left).status_code == 404
    assert budget(world, None, user_id=left).json()["data"] == []
    assert budget(world, None, user_id=left).status_code == 404


def test_alerts_are_told_once_for_each_threshold(world):
    job = costs(world)
    budget(world, 2 * job)
    world.job()
    world.job()
    alerts = rows(world, AlertRow)
    assert sorted(alert.threshold for alert in alerts) == [50, 80, 100]
    assert len(rows(world, EventRow, kind="budget.alert")) == 3
    assert world.ask("GET", "/api/budgets").json()["data"][0]["alerts"] == [50, 80, 100]
    budget(world, 20 * job)  # what is not reached any more is told again when it is
    assert rows(world, AlertRow) == []
    world.job()
    assert rows(world, AlertRow) == []


def test_a_costly_job_waits_until_an_admin_approves_it(world):
    costs(world, "90000.00")
    job = world.submit().json()["job"]
    assert job["state"] == "awaiting_approval"
    asked = world.ask("GET", "/api/jobs?state=awaiting_approval").json()["data"]
    assert [each["id"] for each in asked] == [job["id"]]
    assert world.ask("GET", "/api/jobs?state=queued").json()["data"] == []
    assert len(rows(world, EventRow, kind="approval.asked")) == 1
    assert world.ask("POST", f"/api/jobs/{job['id']}/approve").json()["state"] == "queued"
    again = world.ask("POST", f"/api/jobs/{job['id']}/approve")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "wrong_state")


@pytest.mark.parametrize(("verb", "body"), [("reject", {"reason": "too dear"}), ("stop", None), ("cancel", None)])
def test_a_job_that_is_not_approved_gives_back_what_it_held(world, verb, body):
    costs(world, "90000.00")
    job = world.job()
    assert world.ask("GET", "/api/billing/usage").json()["held_usd"] != "0.00"
    ended = world.ask("POST", f"/api/jobs/{job}/{verb}", json=body) if body else world.ask("POST", f"/api/jobs/{job}/{verb}")
    assert ended.json()["state"] == "cancelled"
    assert world.ask("GET", "/api/billing/usage").json()["held_usd"] == "0.00"
    assert world.ask("POST", f"/api/jobs/{job}/resume").status_code == 409
    assert world.ask("GET", f"/api/billing/job/{job}/cost").json()["cost_usd"] == "0.00"
    *_, last = world.ask("GET", f"/api/jobs/{job}/transitions").json()["data"]
    assert (last["to_state"], ": too dear" in last["reason"]) == ("cancelled", verb == "reject")
