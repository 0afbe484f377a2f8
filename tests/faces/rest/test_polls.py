"""The fast way to one job's status answers as the route does, and leaves to it whatever is not plain."""

import json

import pytest

from luthier.accounts.types import KeyWish, Scope

from .conftest import World


@pytest.fixture(scope="module")
def job(shared):
    return shared.job()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("polls") / "data")
    yield world
    world.platform.close()


def test_the_answer_is_the_job_and_its_tag_answers_304(shared, job):
    first = shared.ask("GET", f"/api/jobs/{job}")
    assert first.content.decode() == shared.platform.jobs.get(shared.actor, job).model_dump_json()
    assert first.headers["content-type"] == "application/json"
    assert {"ratelimit-remaining", "x-request-id", "x-content-type-options"} <= set(first.headers)
    again = shared.ask("GET", f"/api/jobs/{job}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])


def test_a_change_is_seen_by_the_next_question(shared):
    job = shared.job()
    assert shared.ask("GET", f"/api/jobs/{job}").json()["state"] == "queued"
    shared.ask("POST", f"/api/jobs/{job}/cancel")
    assert shared.ask("GET", f"/api/jobs/{job}").json()["state"] == "cancelled"
    shared.ask("DELETE", f"/api/jobs/{job}")
    assert shared.ask("GET", f"/api/jobs/{job}").status_code == 410


def test_the_access_log_names_the_route_and_the_job(shared, job):
    shared.ask("GET", f"/api/jobs/{job}")
    line = json.loads((shared.platform.settings.data / "access.log").read_text("ascii").splitlines()[-1])
    assert (line["action"], line["route"], line["on"]) == ("jobs.show", "GET /api/jobs/{job_id}", [job])


@pytest.mark.parametrize(
    ("path", "status"),
    [("job_01kagz3vqdfyxtqn4w5b9zn8r2", 404), ("nonsense", 404), ("{job}?x=1", 422), ("{job}/", 404), ("", 404)],
)
def test_what_is_not_plain_gets_the_words_of_the_route(shared, job, path, status):
    answer = shared.ask("GET", f"/api/jobs/{path.format(job=job)}")
    assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_a_job_of_another_team_is_not_found(shared, job):
    accounts = shared.platform.accounts
    accounts.users.add("x@example.com", "a long enough pass phrase 7")
    token = shared.client.post("/auth/login", json={"email": "x@example.com", "password": "a long enough pass phrase 7"}).json()
    bearer = {"authorization": f"Bearer {token['access_token']}"}
    key = shared.client.post("/api/keys", json={"name": "theirs"}, headers=bearer).json()["secret"]
    for headers in (bearer, {"x-api-key": key}):
        assert shared.client.get(f"/api/jobs/{job}", headers=headers).status_code == 404


def test_a_key_that_may_not_look_is_refused_and_a_revoked_one_is_unknown(shared, job):
    keys = shared.platform.accounts.keys
    writer = keys.create(shared.actor, KeyWish(name="writer", scopes=(Scope.WRITE,)))
    reader = keys.create(shared.actor, KeyWish(name="reader", scopes=(Scope.READ,)))

    def status(key):
        return shared.client.get(f"/api/jobs/{job}", headers={"x-api-key": key.secret}).status_code

    assert (status(writer), status(reader)) == (403, 200)
    keys.revoke(shared.actor, reader.key.id)
    assert status(reader) == 401
