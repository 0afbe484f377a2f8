"""What requests leave behind: each that may change something one row, each that looks one line, and no secret in either."""

import json
import re
import sqlite3

import pytest
from sqlalchemy import event

from luthier.accounts import deeds
from luthier.accounts.access_log import AccessLog
from luthier.accounts.audit_types import Wanted
from luthier.accounts.rules import looks
from luthier.accounts.types import Role
from luthier.faces.rest.features import ROUTERS
from luthier.faces.rest.trail import act_of

from .conftest import GOOD, World

CHANGING = {"post", "put", "patch", "delete"}
CANARY = "canary-5f1e"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("shared") / "data")
    yield world
    world.platform.close()


def operations(app):
    return [
        (method, path, operation) for path, methods in app.openapi()["paths"].items() for method, operation in methods.items()
    ]


def bodies(operation):
    """An example of each media type, and nothing at all."""
    yield None, b""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = [each["value"] for each in content.get("examples", {}).values()] or [content.get("example")]
        if kind == "application/json":
            yield kind, json.dumps(examples[0]).encode()
        elif isinstance(examples[0], str):
            yield kind, examples[0].encode()


def rows(world):
    world.platform.audit.keep(everything=True)
    with world.platform.audit.export() as entries:
        return [entry for entry in entries if entry.actor != deeds.SYSTEM]


def test_each_request_that_may_change_something_leaves_exactly_one_row(shared):
    asked = {}
    for method, path, operation in operations(shared.app):
        if method not in CHANGING or looks(method.upper(), path):
            continue
        for kind, body in bodies(operation):
            named = re.sub(r"\{user_id\}", shared.actor.user_id, path)
            named = re.sub(r"\{(\w+)\}", lambda found: f"{found[1].removesuffix('_id')}_01kagz3vqdfyxtqn4w5b9zn8r2", named)
            answer = shared.ask(method.upper(), named, content=body, headers={"content-type": kind} if kind else {})
            asked[answer.headers["x-request-id"]] = (method, path, kind, answer.status_code)
            shared.platform.audit.keep(everything=True)  # so that no two refusals are counted as one
    found = rows(shared)
    by_request = {request_id: [row for row in found if row.request_id == request_id] for request_id in asked}
    wrong = {asked[request_id]: len(each) for request_id, each in by_request.items() if len(each) != 1}
    assert wrong == {}
    assert len(asked) > 30
    assert all(row.route and row.action != "unknown" and row.tenant_id == shared.actor.tenant_id for row in found if row.key_id)
    assert shared.platform.audit.verify().faults == []


def test_every_route_has_an_action_of_its_own():
    names = [
        f"{route.tags[0]}.{route.name}" for routes in ROUTERS for route in routes.routes if route.methods & {"POST", "DELETE"}
    ]
    assert [name for name in names if names.count(name) > 1] == []
    assert len(names) > 40


@pytest.fixture
def log(world):
    def log(**wanted):
        world.platform.audit.keep(everything=True)
        answer = world.ask("GET", "/api/audit", params=wanted)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    return log


def test_the_row_of_a_change_says_who_what_on_what_and_from_where(world, log):
    job = world.job()
    stopped = world.ask("POST", f"/api/jobs/{job}/stop")
    (row,) = log(action="jobs.stop")
    assert row["request_id"] == stopped.headers["x-request-id"]
    assert (row["actor"], row["key_id"], row["address"]) == (world.actor.user_id, world.actor.key_id, "testclient")
    assert (row["outcome"], row["route"]) == ("changed", "POST /api/jobs/{job_id}/stop")
    assert row["resources"][0] == job
    assert {each["action"] for each in log(on=job)} == {"jobs.stop", "jobs.submit"}
    assert row["seq"] is not None


def test_an_answer_that_changed_nothing_and_a_replay_are_rows_without_a_change(world, log):
    world.ask("POST", "/api/jobs/estimate", json=world.spec())
    world.submit(headers={"idempotency-key": "once"})
    world.submit(headers={"idempotency-key": "once"})
    assert [row["outcome"] for row in log(action="jobs.estimate")] == ["unchanged"]
    assert [row["outcome"] for row in log(action="jobs.submit")] == ["unchanged", "changed"]


def test_refusals_are_counted_and_those_of_strangers_stand_in_the_platforms_chain(world, log):
    for _ in range(5):
        world.ask("POST", "/api/jobs", json={"a": 1})
        world.ask("GET", f"/api/jobs/job_{'0' * 26}")
        world.client.post("/api/jobs", headers={"x-api-key": "lk_wrong"})
        world.ask("GET", "/api/nothing")
    assert {(row["action"], row["status"], row["count"]) for row in log(outcome="refused")} == {
        ("unknown", 404, 5),
        ("jobs.show", 404, 5),
        ("jobs.submit", 422, 5),
    }
    with world.platform.audit.export() as entries:
        (stranger,) = [entry for entry in entries if entry.code == "unauthenticated"]
    assert (stranger.tenant_id, stranger.actor, stranger.count) == (deeds.PLATFORM, deeds.ANONYMOUS, 5)


def test_a_row_is_found_by_the_id_that_its_error_shows(world, log):
    world.job()
    shown = world.ask("POST", "/api/jobs", json={"a": 1}).json()["error"]["request_id"]
    (row,) = log(request_id=shown)
    assert (row["request_id"], row["action"], row["outcome"]) == (shown, "jobs.submit", "refused")
    assert log(request_id=shown, outcome="changed") == []
    assert world.platform.audit.list(world.stranger, Wanted(request_id=shown)).data == []


@pytest.mark.parametrize("wanted", [{}, {"request_id": f"req_{'0' * 26}"}])
def test_a_page_and_a_request_are_found_by_an_index_and_nothing_is_sorted(world, wanted):
    asked = []
    event.listen(world.platform.database._read, "before_cursor_execute", lambda *found: asked.append(found[2:4]))
    world.platform.audit.list(world.actor, Wanted(**wanted))
    (query, values) = asked[-1]
    with sqlite3.connect(world.platform.database.path) as connection:
        steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    name, columns = ("request", "tenant_id=? AND request_id=?") if wanted else ("team", "tenant_id=?")
    assert steps == [f"SEARCH audit USING INDEX audit_of_{name} ({columns})"]


@pytest.mark.parametrize(
    "query",
    [
        "request_id=req_1",
        "actor=a b",
        "outcome=maybe",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "on=%27",
        "who=x",
        "limit=0",
    ],
)
def test_a_search_that_cannot_be_is_refused(world, query):
    assert world.ask("GET", f"/api/audit?{query}").status_code == 422


def test_only_admins_look(world):
    for role in (Role.VIEWER, Role.MEMBER):
        with sqlite3.connect(world.platform.database.path) as connection:
            connection.execute("UPDATE memberships SET role = ?", [role])
        assert world.ask("GET", "/api/audit").status_code == 403


def test_a_cursor_of_another_team_is_none(world):
    world.job()
    world.platform.audit.keep()
    other = world.platform.audit.list(world.stranger, Wanted())
    assert other.data == []
    assert world.ask("GET", f"/api/audit?after=aud_{'0' * 26}").status_code == 400


def test_no_secret_and_nothing_of_a_body_is_in_the_logs(world):
    headers = {"user-agent": CANARY, "x-forwarded-for": CANARY, "cookie": CANARY, "idempotency-key": CANARY}
    world.upload(GOOD.replace(b"q1", CANARY.encode()), f"?name={CANARY}", headers=headers)
    world.submit(name=CANARY, headers=headers)
    world.ask("GET", f"/api/jobs?limit=1&key={CANARY}", headers=headers)
    world.ask("GET", f"/api/jobs/{CANARY}", headers=headers)
    world.ask("POST", "/api/chat", json={"model": CANARY, "messages": [{"role": "user", "content": CANARY}]}, headers=headers)
    world.client.get("/api/jobs", headers={"x-api-key": f"lk_{CANARY}"})
    world.client.get("/api/jobs", headers={"authorization": f"Basic {CANARY}"})
    found = rows(world)
    assert len(found) >= 5
    told = "".join(entry.model_dump_json() for entry in found) + lines(world)
    for secret in (CANARY, world.key, world.key[3:]):
        assert secret not in told


def lines(world):
    return (world.platform.settings.data / "access.log").read_text("ascii")


def test_each_read_is_one_line_of_json_whatever_is_asked(world):
    job = world.job()
    world.ask("GET", "/health")
    before = len(lines(world).splitlines())
    for path in (f"/api/jobs/{job}", "/api/jobs/%0d%0a%1b[31mred", "/api/jobs/..%2f..", "/nothing%0aat all", "/health"):
        world.ask("GET", path)
    found = [json.loads(line) for line in lines(world).splitlines()[before:]]
    assert len(found) == 5
    assert (found[0]["route"], found[0]["on"], found[0]["status"]) == ("GET /api/jobs/{job_id}", [job], 200)
    assert found[0]["actor"] == world.actor.user_id
    assert [line["status"] for line in found[1:]] == [404, 404, 404, 200]
    assert "\x1b" not in lines(world)


def test_the_access_log_takes_turns_and_can_be_left_out(tmp_path):
    act = act_of({"method": "GET"})
    log = AccessLog(tmp_path / "access.log", 1000)
    for _ in range(200):
        log.write(act, status=200, code=None, ms=1.0)
    log.close()
    files = sorted(tmp_path.glob("access.log*"))
    assert len(files) == 5
    assert all(file.stat().st_size <= 1000 for file in files)
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    AccessLog(tmp_path / "none.log", 0).write(act, status=200, code=None, ms=1.0)
    assert not (tmp_path / "none.log").exists()
