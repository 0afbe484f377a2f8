"""Who gets in, and what every answer has."""

import pytest

from luthier import ids

OPEN = {"/health", "/docs", "/openapi.json"}
SIGNED = "/links/{team}/{job}/{name}"
BODIES = {"/api/models/{model_id}/deploy": {"target": "nowhere"}, "/api/models/{model_id}/links": {}}
KEYLESS = {*OPEN, SIGNED, "/auth/login", "/auth/signup", "/auth/refresh", "/auth/oidc/login", "/auth/oidc/callback"}


def operations(world):
    paths = world.client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods if path not in KEYLESS]


def filled(path, world):
    new = {"dataset": ids.DATASET, "job": ids.JOB, "task": ids.JOB, "model": ids.MODEL}
    for noun, prefix in new.items():
        path = path.replace("{" + noun + "_id}", ids.new(prefix))
    return path.replace("{user_id}", world.actor.user_id).replace("{name}", "x")


def test_no_route_answers_without_a_key(world):
    found = operations(world)
    assert len(found) > 40
    for method, path in found:
        answer = world.client.request(method, filled(path, world))
        assert (method, path, answer.status_code) == (method, path, 401)
        code = "invalid_api_key" if path.startswith("/v1/") else "unauthenticated"
        assert method == "HEAD" or answer.json()["error"]["code"] == code
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("headers", [{"authorization": "Basic x"}, {"authorization": "Bearer "}, {"x-api-key": "lk_wrong"}])
def test_a_wrong_key_is_no_key(world, headers):
    assert world.client.get("/api/me", headers=headers).status_code == 401


def test_two_keys_that_differ_are_refused(world):
    assert world.ask("GET", "/api/me", headers={"authorization": "Bearer other"}).status_code == 400


@pytest.mark.parametrize("path", sorted(OPEN))
def test_health_and_docs_need_no_key(world, path):
    assert world.client.get(path).status_code == 200


def test_a_foreign_id_is_answered_like_an_unknown_one(world):
    """Every read and change of one thing: the model is another team's, or nobody's."""
    foreign = world.model(world.stranger).id
    for method, path in operations(world):
        if "{model_id}" not in path:
            continue
        answers = [
            world.ask(method, path.replace("{model_id}", id_).replace("{name}", "x"), json=BODIES.get(path))
            for id_ in (foreign, ids.new("model"))
        ]
        bodies = [{**answer.json()["error"], "request_id": ""} for answer in answers]
        assert [answer.status_code for answer in answers] == [404, 404], path
        assert bodies[0] == bodies[1]


def test_another_users_seed_path_is_an_unknown_user(world):
    answers = [world.ask("GET", f"/datasets/{who}/list") for who in (world.stranger.user_id, "nobody")]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert world.ask("GET", f"/datasets/{world.actor.user_id}/list").status_code == 200
    assert world.ask("GET", f"/models/{world.actor.tenant_id}/list").status_code == 200


def test_an_unforeseen_failure_is_a_500_that_tells_only_its_id(world, monkeypatch):
    monkeypatch.setattr(world.platform.database, "read", lambda tenant: 1 / 0)
    answer = world.ask("GET", "/api/jobs")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "division" not in answer.text


def test_every_answer_has_safe_headers_and_an_id(world):
    for path in ("/api/me", "/nope", "/health"):
        headers = world.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"].startswith("req_")
        assert "default-src 'none'" in headers["content-security-policy"]


def test_the_api_page_fetches_nothing_from_elsewhere(world):
    page = world.client.get("/docs")
    assert "//" not in page.text.replace("http://127.0.0.1", "")
    assert "unsafe" not in page.headers["content-security-policy"]


def test_the_api_page_has_a_section_for_each_part_in_the_order_that_is_said(world):
    document = world.client.get("/openapi.json").json()
    told = [tag["name"] for tag in document["tags"]]
    used = {tag for methods in document["paths"].values() for operation in methods.values() for tag in operation["tags"]}
    assert set(told) == used
    assert len(told) == len(set(told))
    assert told[0] == "datasets", "what somebody new needs stands first"


def test_health_tells_of_each_part(world):
    assert world.client.get("/health").json() | {"version": ""} == {
        "status": "degraded",
        "version": "",
        "database": "ok",
        "supervisor": "absent",
        "request_limits": "ok",
        "engine": "idle",
    }


def test_health_sees_the_supervisors_lock(world):
    from luthier.server.locks import FolderLock

    lock = FolderLock(world.platform.settings.data, "supervisor")
    assert lock.take()
    assert world.client.get("/health").json()["supervisor"] == "works"
    lock.release()
    assert world.client.get("/health").json()["supervisor"] == "absent"


def test_every_route_asks_what_the_caller_may_do(world):
    """`StrictRoute` is where it is asked; a route of another class would let a viewer change things."""
    from fastapi.routing import APIRoute

    from luthier.faces.rest import features
    from luthier.faces.rest.body import StrictRoute

    found = [route for routes in features.ROUTERS for route in routes.routes]
    assert len(found) > 60
    assert [route for route in found if not isinstance(route, StrictRoute) or not isinstance(route, APIRoute)] == []
