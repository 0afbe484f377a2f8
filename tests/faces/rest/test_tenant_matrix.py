"""Walls between teams, generated from the OpenAPI document: what is another team's is what nobody has (P10, A15 to A17).

Every operation x every field that holds an id x {own, foreign, deleted, unknown, malformed} x every kind of caller. A route or
a field that is not named in `id_fields.py` fails: say there what it holds.
"""

from __future__ import annotations

import json
import re

import pytest
from sqlalchemy import event

from luthier import ids, signatures
from luthier.faces.rest import features

from .conftest import World
from .id_fields import answered, cases, fields, is_plain, kind_of, operations, request_for, unknown_like, values_of, without
from .neighbours import PREFIXES, rows_of, settle, unknown

KEPT = {"GET /api/billing/job/{job_id}/cost", "GET /billing/job/{job_id}/cost"}
ODD = ("../x", "%2e%2e%2f", "x" * 300, "job_1; drop", "١")
ADMINS = {
    *("GET /api/audit", "PUT /api/budgets", "PUT /api/gate", "POST /api/jobs/{job_id}/approve", "POST /api/jobs/{job_id}/reject"),
    *("GET /api/invitations", "POST /api/invitations", "DELETE /api/invitations/{invitation_id}"),
    *("PATCH /api/users/{user_id}", "DELETE /api/users/{user_id}", "POST /api/hooks", "DELETE /api/hooks/{hook_id}"),
    *("POST /api/webhooks", "PATCH /api/webhooks/{webhook_id}", "DELETE /api/webhooks/{webhook_id}"),
    *("POST /api/webhooks/{webhook_id}/rotate", "POST /api/webhooks/{webhook_id}/test"),
    *("PUT /api/billing/pricing/{hardware}", "POST /api/billing/refunds"),
}
VIEWERS_TOO = {
    *("POST /api/chat", "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"),
    *("POST /predict", "POST /api/predict", "POST /api/predict/picture", "POST /api/models/recommend", "POST /models/recommend"),
    *("POST /v1/fine_tuning/alpha/graders/run", "POST /v1/fine_tuning/alpha/graders/validate", "POST /api/jobs/estimate"),
    *("POST /auth/password", "POST /api/invitations/accept", "POST /api/teams"),
}
"""What is no GET, and yet a viewer and a key to read may ask it: it changes nothing that is the team's."""
OF_ONES_OWN = {"DELETE /api/keys/{key_id}"}
"""What a viewer may change too, since it is theirs alone; a key to read may not."""
OF_A_LOGIN = "POST /auth/logout"
OF_THE_PLATFORM = {("POST /api/billing/refunds", player) for player in ("admin", "login", "write-only key")}
"""Team A runs this platform: its admins refund what any team was charged. Others are refused: `test_billing.py`."""
ALIKE = {
    ("GET /api/audit", "actor"): "somebody who did nothing yet is on no page",
    ("POST /v1/fine_tuning/jobs", "model"): "bases alone are trained: a model of one's own is refused like any other word",
}
JUDGES = re.compile(r"grader\.(graders\.)?model$")
"""Bases alone judge."""
PLAYERS = ("viewer", "member", "admin", "login", "read-only key", "write-only key")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("town") / "data", limit_address="1000000/minute")
    world.build_base()
    world.a, world.b = settle(world, "a"), settle(world, "b")
    yield world
    world.platform.close()


def test_every_field_of_every_route_is_an_id_of_a_known_kind_or_none(town):
    open_ = [
        (name, field)
        for name, operation, schemas in operations(town)
        for _, field in fields(operation, schemas)
        if kind_of(name, field) is None and not is_plain(name, field)
    ]
    assert open_ == []


def test_every_route_is_in_the_document(town):
    """What is not there would be looked at by none of the tests below."""
    described = {name for name, _, _ in operations(town)}
    found = {f"{method} {route.path}" for routes in features.ROUTERS for route in routes.routes for method in route.methods}
    found = {name.replace(":path}", "}") for name in found}
    assert found - described == {"GET /", "GET /docs", "GET /docs.js", "GET /docs.css"}
    assert described - found <= {"GET /openapi.json"}


class Statements:
    """What a database was asked, so that two requests can be compared without a clock."""

    def __init__(self, world):
        self._said = []
        event.listen(world.platform.database.engine, "before_cursor_execute", self._note)

    def _note(self, connection, cursor, statement, *_):
        self._said.append(statement)

    def taken(self):
        said, self._said = self._said, []
        return said


@pytest.mark.timeout(280)
def test_a15_what_is_another_teams_is_what_nobody_has(town):
    before, wrong, asked, statements = rows_of(town, town.b), [], 0, Statements(town)
    for name, operation, place, field, kind in cases(town):
        theirs = (*values_of(kind, town.b.own), *values_of(kind, town.b.deleted))
        assert theirs, kind
        for player in PLAYERS:
            if (name, player) in OF_THE_PLATFORM:
                continue
            for foreign in theirs if player == "admin" else theirs[:1]:
                both = []
                for value in (foreign, unknown_like(kind, foreign)):
                    request = request_for(name, operation, place, field, value, town.a.own)
                    statements.taken()
                    status, body, heads = answered(town, town.a.keys[player], request)
                    heads.pop("content-length", None)
                    both.append((status, without(body, value), heads, statements.taken()))
                    asked += 1
                if both[0] != both[1] or both[0][0] >= 500:
                    wrong.append((name, field, player, both))
                elif both[0][0] < 400 and place != "query":
                    wrong.append((name, field, player, "was answered"))
    assert wrong == []
    assert asked > 2000
    assert rows_of(town, town.b) == before


def test_what_was_deleted_or_cannot_be_an_id_is_refused_and_nothing_breaks(town):
    before, wrong = rows_of(town, town.b), []
    for name, operation, place, field, kind in cases(town):
        gone = values_of(kind, town.a.deleted)
        for player, values in (("admin", (*ODD, *gone)), ("viewer", (ODD[0], *gone))):
            for value in values:
                request = request_for(name, operation, place, field, value, town.a.own)
                status, _, _ = answered(town, town.a.keys[player], request)
                # What a job cost stays in the ledger; a key that was revoked may be revoked again.
                stays = value in gone and name in {*KEPT, "DELETE /api/keys/{key_id}"}
                if status >= 500 or (status < 400 and place != "query" and not stays):
                    wrong.append((name, field, player, value[:20], status))
    assert wrong == []
    assert rows_of(town, town.b) == before


@pytest.mark.timeout(280)
def test_nobody_gets_nothing(town):
    """Whoever has no credential, or one that is not valid here or no longer: one 401 for all that there is."""
    wrong, asked, mine = [], 0, rows_of(town, town.a)
    for name, operation, _ in operations(town):
        if operation["security"] == []:
            continue
        request = request_for(name, operation, "", "", "", town.a.own)
        for what, headers in town.a.refused.items():
            status, body, _ = answered(town, headers, request)
            asked += 1
            if status != 401 or any(value in body for value in town.a.own.values()):
                wrong.append((name, what, status))
    assert wrong == []
    assert asked > 1000
    assert rows_of(town, town.a) == mine


def test_a_role_or_a_scope_that_lacks_the_right_is_refused_before_any_id_is_looked_at(town):
    """A viewer and a key to read get 403 for their team's, and the same 403 for what nobody has."""
    wrong = []
    for name, operation, place, field, kind in cases(town):
        if name.startswith(("GET", "HEAD", "OPTIONS")):
            continue
        for player in ("viewer", "read-only key"):
            values = (*values_of(kind, town.a.own), unknown(kind))
            requests = [request_for(name, operation, place, field, value, town.a.own) for value in values]
            both = [answered(town, town.a.keys[player], request)[:2] for request in requests]
            refused = {status for status, _ in both} == {403}
            if refused and len(set(both)) != 1:
                wrong.append((name, field, player, both))
            if not refused and name not in VIEWERS_TOO | (OF_ONES_OWN if player == "viewer" else set()):
                wrong.append((name, field, player, "may"))
    assert wrong == []


def test_what_a_viewer_may_ask_and_what_only_an_admin_may_is_said_here(town):
    """A14. A route that forgets its mark, or gets one that it should not have, is noticed here."""
    nothing = {kind: unknown(kind) if kind in PREFIXES else "nobody" for kind in town.a.own} | {"me": town.a.tenant_id}
    may = {player: set() for player in ("viewer", "member", "read-only key", "write-only key")}
    for name, operation, _ in operations(town):
        request = request_for(name, operation, "", "", "", nothing)
        if operation["security"] != []:
            for player in may:
                may[player] |= {name} if answered(town, town.a.keys[player], request)[0] != 403 else set()
    secured = {name for name, operation, _ in operations(town) if operation["security"] != []}
    reads = {name for name in secured if name.startswith(("GET", "HEAD", "OPTIONS"))}
    assert secured - may["member"] == ADMINS | {OF_A_LOGIN}
    assert may["viewer"] == (reads - ADMINS) | VIEWERS_TOO | OF_ONES_OWN
    assert may["read-only key"] == (may["viewer"] - OF_ONES_OWN) | (reads & ADMINS)
    assert may["write-only key"] == secured - reads - VIEWERS_TOO - {OF_A_LOGIN}


def test_a24_a_get_changes_nothing(town):
    """A24: nobody is led to change something by a link. When a key was last used is noted, and nothing else."""
    before, asked = rows_of(town, town.a), 0
    for name, operation, _ in operations(town):
        if name.startswith(("GET", "HEAD")) and "/events" not in name:
            status, _, _ = answered(town, town.a.keys["admin"], request_for(name, operation, "", "", "", town.a.own))
            asked += status < 400
    assert asked > 50
    assert rows_of(town, town.a) == before


def test_a16_a17_a_path_or_a_field_gives_no_right(town):
    """A16, A17: what says who one is, or what a thing costs, is not taken from a request."""
    wrong, before = [], rows_of(town, town.b)
    for name, operation, schemas in operations(town):
        if " /v1/" in name:
            continue  # passes over what it does not know, as the service does whose clients it serves
        method, path, more = request_for(name, operation, "", "", "", town.a.own)
        own = {field for _, field in fields(operation, schemas)}
        for field in sorted({"tenant_id", "user_id", "role", "is_admin", "cost", "created_by"} - own):
            value = town.b.tenant_id
            tried = {**more, "params": {field: value}}
            status, _, _ = answered(town, town.a.keys["admin"], (method, path, tried))
            if status < 400 and operation["security"] != []:
                wrong.append((name, "query", field, status))
            if isinstance(more.get("json"), dict):
                status, _, _ = answered(
                    town, town.a.keys["admin"], (method, path, {**more, "json": {**more["json"], field: value}})
                )
                if status not in {400, 422}:
                    wrong.append((name, "body", field, status))
    assert wrong == []
    assert rows_of(town, town.b) == before


def test_an_admin_of_one_team_is_nobody_in_another(town):
    """A14: the other way round, each id that team B has, asked for by A's admin and A's by B's."""
    for asking, owning in ((town.a, town.b), (town.b, town.a)):
        before = rows_of(town, owning)
        for name, operation, place, field, kind in cases(town):
            if place == "path":
                for value in values_of(kind, owning.own):
                    status, _, _ = answered(
                        town, asking.keys["admin"], request_for(name, operation, place, field, value, asking.own)
                    )
                    assert status in {404, 422}, (name, field, status)
        assert rows_of(town, owning) == before


def test_another_team_is_no_team(town):
    """A login acts for a team that it asks for: one that it is not in is one that nobody has."""
    password = "correct horse battery"
    invited = town.client.post("/api/invitations", json={"email": "new@a.example"}, headers={"x-api-key": town.a.keys["admin"]})
    login = {"email": "new@a.example", "password": password}
    assert town.client.post("/auth/signup", json={**login, "invitation": invited.json()["token"]}).status_code == 201
    tokens = town.client.post("/auth/login", json=login).json()
    both = []
    for team in (town.b.tenant_id, ids.new(ids.TENANT)):
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        asked = town.client.get("/api/jobs", headers={**bearer, "x-luthier-team": team})
        again = town.client.post("/auth/login", json={**login, "team": team})
        both.append([(answer.status_code, re.sub(r"req_\w+", "req", answer.text)) for answer in (asked, again)])
        assert {answer.status_code for answer in (asked, again)} <= {401, 403, 404}
    assert both[0] == both[1]


def test_lists_and_searches_show_nothing_of_another_team(town):
    held = [value for value in [*town.b.own.values(), *town.b.deleted.values(), town.b.tenant_id] if ids.has_form(value)]
    seen = []
    for name, operation, _ in operations(town):
        if name.startswith("GET") and "{" not in name:
            _, body, _ = answered(town, town.a.keys["admin"], request_for(name, operation, "", "", "", town.a.own))
            seen += [(name, value) for value in [*held, "line-b", "b.example"] if value in body]
    assert seen == []


def test_an_idempotency_key_of_another_team_is_a_new_one(town):
    run = {"base_model": "luthier/tiny"}
    made = []
    for team in (town.a, town.b):
        body, headers = {**run, "dataset": team.own["dataset"]}, {"idempotency-key": "the-same"}
        status, text, heads = answered(town, team.keys["admin"], ("POST", "/api/jobs", {"json": body, "headers": headers}))
        assert (status, "idempotent-replayed" in heads) == (201, False), text
        made.append(json.loads(text)["job"]["id"])
    assert made[0] != made[1]


def test_a_signed_call_starts_nothing_on_what_is_another_teams(town):
    run = {"base_model": "luthier/tiny", "dataset": town.a.own["dataset"]}
    wanted = {"name": "open", "run": run, "overrides": ["dataset"]}
    made = town.client.post("/api/hooks", json=wanted, headers={"x-api-key": town.a.keys["admin"]}).json()
    before, both = rows_of(town, town.b), []
    for number, dataset in enumerate((town.b.own["dataset"], town.b.deleted["dataset"], ids.new(ids.DATASET))):
        body, at, message = json.dumps({"dataset": dataset}).encode(), int(town.platform.now().timestamp()), f"msg_{number}"
        signature = signatures.signature(made["secret"], message, at, body)
        signed = {"webhook-id": message, "webhook-timestamp": str(at), "webhook-signature": signature}
        status, text, heads = answered(town, {}, ("POST", made["path"], {"content": body, "headers": signed}))
        both.append((status, without(text, dataset), heads))
    assert both[0] == both[1] == both[2]
    assert both[0][0] == 404
    assert rows_of(town, town.b) == before


@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/estimate", "/api/hooks"])
def test_what_only_the_platform_says_is_taken_from_nobody(town, path):
    source = {"id": town.b.own["dataset"], "url": "file:///etc/passwd", "sha256": "0" * 64}
    sources = {"dataset": source, "base": {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}}
    run = {"base_model": "luthier/tiny", "dataset": town.a.own["dataset"], "sources": sources}
    body = {"name": "hooked", "run": run} if path == "/api/hooks" else run
    status, text, _ = answered(town, town.a.keys["admin"], ("POST", path, {"json": body}))
    assert (status, json.loads(text)["error"]["code"]) == (422, "forbidden_field")


def test_ones_own_is_told_from_what_nobody_has(town):
    """So that the refusals above are not those of requests that are wrong in themselves. Deletes come last."""
    alike, wrong = [], []
    for name, operation, place, field, kind in sorted(cases(town), key=lambda case: "DELETE" in case[0] or "cancel" in case[0]):
        own, nobody = values_of(kind, town.a.own)[0], unknown_like(kind, values_of(kind, town.a.own)[0])
        both = []
        for value in (nobody, own):
            request = request_for(name, operation, place, field, value, town.a.own)
            status, body, _ = answered(town, town.a.keys["admin"], request)
            both.append((status, without(body, value)))
            if status >= 500 and "base_unavailable" not in body:  # this model has no tokenizer of its own
                wrong.append((name, field, status, body))
        if both[0] == both[1] and (name, field) not in ALIKE and not JUDGES.search(field):
            alike.append((name, place, field, *both[1]))
    assert wrong == []
    assert alike == []
