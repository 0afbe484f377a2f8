"""Quotas: refused before the body where that is possible, and in the transaction where it counts."""

import threading

import pytest
from typer.testing import CliRunner

from luthier.accounts.quotas import Quota
from luthier.accounts.types import Actor
from luthier.server.main import app

from .conftest import GOOD


def limit(world, quota, most):
    world.platform.quotas.set(world.actor.tenant_id, quota, most)


def refused(answer):
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "quota_exceeded"), answer.text
    return answer.json()["error"]["details"]


def test_a_file_beyond_the_quota_is_refused_before_its_body_and_kept_nowhere(world):
    """D45."""
    assert world.dataset
    limit(world, Quota.STORAGE_BYTES, 2 * len(GOOD) - 1)
    sent = []

    def body():
        sent.append(True)
        yield GOOD

    answer = world.ask("POST", "/api/datasets?name=more", content=body(), headers={"content-length": str(len(GOOD))})
    details = refused(answer)
    assert details == {"quota": "storage_bytes", "limit": 2 * len(GOOD) - 1, "used": len(GOOD), "asked": len(GOOD)}
    assert "luthier quotas set" in answer.json()["error"]["hint"]
    refused(world.ask("POST", "/api/datasets?name=more", content=iter([GOOD])))  # a body that does not say how large it is
    assert len(world.ask("GET", "/api/datasets").json()["data"]) == 1
    limit(world, Quota.STORAGE_BYTES, None)
    assert world.upload(query="?name=more").status_code == 201


def test_what_was_deleted_counts_no_more(world):
    limit(world, Quota.STORAGE_BYTES, len(GOOD))
    first = world.upload(query="?name=a").json()["id"]
    refused(world.upload(query="?name=b"))
    assert world.ask("DELETE", f"/api/datasets/{first}").status_code == 204
    assert world.upload(query="?name=b").status_code == 201


def test_parallel_submits_cannot_share_the_last_place_in_the_line(world):
    """J10's part about quotas."""
    assert world.dataset
    limit(world, Quota.QUEUED_JOBS, 3)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(world.submit())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [402] * 5
    job = world.ask("GET", "/api/jobs").json()["data"][0]["id"]
    world.ask("POST", f"/api/jobs/{job}/cancel")
    assert world.submit().status_code == 201


def test_tokens_of_a_month_are_counted_and_a_refused_job_leaves_nothing(world):
    tokens = world.ask("POST", "/api/jobs/estimate", json=world.spec()).json()["tokens"]
    limit(world, Quota.TOKENS_A_MONTH, 2 * tokens)
    assert [world.submit().status_code for _ in range(3)] == [201, 201, 402]
    assert refused(world.submit()) == {"quota": "tokens_a_month", "limit": 2 * tokens, "used": 2 * tokens, "asked": tokens}
    assert len(world.ask("GET", "/api/jobs").json()["data"]) == 2


def test_a_resume_asks_as_a_submit_does(world):
    tokens = world.ask("POST", "/api/jobs/estimate", json=world.spec()).json()["tokens"]
    job = world.job()
    assert world.ask("POST", f"/api/jobs/{job}/stop").json()["state"] == "stopped"
    limit(world, Quota.QUEUED_JOBS, 1)
    other = world.job()
    again = world.ask("POST", f"/api/jobs/{job}/resume")
    assert refused(again) == {"quota": "queued_jobs", "limit": 1, "used": 1, "asked": 1}
    assert world.ask("GET", f"/api/jobs/{job}").json()["state"] == "stopped"
    limit(world, Quota.QUEUED_JOBS, None)
    limit(world, Quota.TOKENS_A_MONTH, 2 * tokens - 1)
    again = world.ask("POST", f"/api/jobs/{job}/resume")  # it never began, so its tokens do not count yet
    assert refused(again) == {"quota": "tokens_a_month", "limit": 2 * tokens - 1, "used": tokens, "asked": tokens}
    world.ask("POST", f"/api/jobs/{other}/cancel")
    assert world.ask("POST", f"/api/jobs/{job}/resume").json()["state"] == "queued"


def test_a_team_sees_its_own_quotas(world):
    world.job()
    limit(world, Quota.QUEUED_JOBS, 5)
    found = {each["quota"]: each for each in world.ask("GET", "/api/quotas").json()["data"]}
    assert found.keys() == set(Quota)
    assert found["queued_jobs"] == {"quota": "queued_jobs", "limit": 5, "used": 1}
    assert found["storage_bytes"] == {"quota": "storage_bytes", "limit": None, "used": len(GOOD)}


def test_of_a_team_at_its_quota_no_more_jobs_start(world):
    from luthier.jobs.queue import JobQueue
    from luthier.jobs.types import Line

    platform, line = world.platform, Line({"local-cpu"})
    for _ in range(2):
        world.job()
    limit(world, Quota.RUNNING_JOBS, 1)
    used = (platform.datasets, platform.registry)
    queue = JobQueue(platform.database, platform.storage, platform.billing, used, platform.now, quotas=platform.quotas)
    assert len(queue.claim("one", line)) == 1
    assert queue.claim("one", line) == ()
    limit(world, Quota.RUNNING_JOBS, None)
    assert len(queue.claim("one", line)) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "TEAM", "gold", "1"], "no quota of this name"),
        (["set", "TEAM", "storage_bytes", "-1"], ""),
        (["set", "TEAM", "storage_bytes", "1e3"], "whole number"),
        (["set", "TEAM", "storage_bytes", "9" * 17], "at most 16 digits"),
        (["set", "team_x", "storage_bytes", "1"], "No such team"),
        (["show", "team_x"], "No such team"),
    ],
)
def test_what_cannot_be_set_is_refused(world, words, says):
    team = world.actor.tenant_id
    done = CliRunner().invoke(app, ["quotas", *[team if word == "TEAM" else word for word in words], "--data", str(data(world))])
    assert done.exit_code != 0
    assert says in str(done.exception)
    assert world.platform.quotas.of(world.actor)[0].limit is None


def data(world):
    return world.platform.settings.data


def test_an_admin_sets_a_quota_at_the_data_folder(world):
    team = world.actor.tenant_id
    run = CliRunner().invoke
    assert run(app, ["quotas", "set", team, "queued_jobs", "7", "--data", str(data(world))]).exit_code == 0
    assert "of 7" in run(app, ["quotas", "show", team, "--data", str(data(world))]).stdout
    assert isinstance(world.actor, Actor)
    with world.platform.audit.export() as rows:
        assert [(row.actor, row.action) for row in rows if row.actor == "console"] == [("console", "console.quotas.set")]
    assert run(app, ["quotas", "set", team, "queued_jobs", "default", "--data", str(data(world))]).exit_code == 0
    assert "of 20,000" in run(app, ["quotas", "show", team, "--data", str(data(world))]).stdout
