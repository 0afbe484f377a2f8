"""Walls between teams, generated from the OpenAPI document: what is another team's is what nobody has (P10, A15 to A17).

Every operation x every field that holds an id x {own, foreign, deleted, unknown, malformed} x every kind of caller. A route or
a field that is not named here fails the test: say what it holds.
"""

from __future__ import annotations

import copy
import re

import pytest

from luthier import ids

from .conftest import World
from .neighbours import rows_of, settle, unknown

IDS = {
    "dataset_id": "dataset",
    "other_id": "dataset",
    "file_id": "dataset",
    "dataset": "dataset",
    "validation_dataset": "dataset",
    "training_file": "dataset",
    "validation_file": "dataset",
    "job_id": "job",
    "task_id": "job",
    "model_id": "model",
    "model": "model",
    "model_name": "name",
    "upload_id": "upload",
    "key_id": "key",
    "user_id": "user",
    "invitation_id": "invitation",
    "webhook_id": "webhook",
    "hook_id": "hook",
    "run_id": "job",
    "run": "dataset",
    "actor": "user",
    "on": "job",
}
IDS_HERE = {
    ("POST /api/datasets", "against"): "dataset",
    ("POST /api/datasets/import", "against"): "dataset",
    ("POST /datasets/{user_id}/upload", "against"): "dataset",
    ("POST /api/jobs", "against"): "model",
    ("POST /api/jobs/estimate", "against"): "model",
    ("POST /fine-tune/{user_id}/start", "against"): "model",
    ("GET /api/jobs", "after"): "job",
    ("GET /train/jobs", "after"): "job",
    ("GET /api/datasets", "after"): "dataset",
    ("GET /datasets/{user_id}/list", "after"): "dataset",
    ("GET /api/models", "after"): "model",
    ("GET /models/{user_id}/list", "after"): "model",
    ("GET /api/models/search", "after"): "model",
    ("GET /models/search", "after"): "model",
    ("GET /api/keys", "after"): "key",
    ("GET /api/audit", "after"): "audit",
    ("GET /api/billing/history", "after"): "charge",
    ("GET /billing/history", "after"): "charge",
    ("GET /api/webhooks/{webhook_id}/deliveries", "after"): "delivery",
    ("GET /v1/files", "after"): "dataset",
    ("GET /v1/fine_tuning/jobs", "after"): "job",
}
NOT_HERE = {
    ("GET /api/jobs/{job_id}/events", "after"): "the number of an event of this one job",
    ("GET /v1/fine_tuning/jobs/{job_id}/events", "after"): "the same",
    ("GET /v1/fine_tuning/jobs/{job_id}/checkpoints", "after"): "the same, of checkpoints",
    ("POST /hooks/{hook}", "hook"): "whoever signs may; without its signature every answer is the same 401",
    ("POST /api/chat", "tool_call_id"): "made up by the model",
    ("POST /v1/embeddings", "model"): "the server's own embedder",
    **{
        (
            "GET /links/{team}/{job}/{name}",
            field,
        ): "under the signature of the link: `test_a_link_needs_no_key_and_opens_one_file`"
        for field in ("team", "job", "name", "until", "key", "signature")
    },
}
PLAIN = set(
    re.findall(
        r"\S+",
        """
    action amount_usd audience base base_model batch_size by channel classifier code current description digit dpo drop_bad_rows
    dimensions echo encoding_format input prompt
    email enabled epochs evaluate expires_in_days export file format frequency_penalty grader grpo hardware hidden_size
    hourly_usd hyperparameters Idempotency-Key image include_usage invitation item json_schema keep_old_hours kind kinds kto
    last-event-id Last-Event-ID learning_rate limit limit_usd limits line logit_bias logprobs lora map
    max_completion_tokens max_seq_len max_tokens messages metadata method margin metric model_sample n name new order orpo outcome
    overrides packing parallel_tool_calls password period picture precision presence_penalty purpose reason refresh_token
    response_format
    revision role rows scopes second_person seconds secret seed sha256 share since source sources spend_cap_usd stage state
    stop stream stream_options functions must_call
    suffix tail_bytes target temperature token tool_choice tools top_logprobs top_p train until Upload-Checksum Upload-Length
    Upload-Metadata Upload-Offset url user version embedding language q tags task text
    webhook-id webhook-signature webhook-timestamp x-filename X-Filename
    """,
    )
)
"""Fields that hold no id of a team's thing. `invitation`, `token` and `refresh_token` are secrets: whoever has one may."""
TEAMS = {"team"}
"""A team that a login asks for: `test_another_team_is_no_team`."""
KEPT = {"GET /api/billing/job/{job_id}/cost", "GET /billing/job/{job_id}/cost"}
ODD = ("../x", "%2e%2e%2f", "x" * 300, "job_1; drop", "١")
PLAYERS = ("viewer", "member", "admin", "read-only key")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("town") / "data")
    world.build_base()
    world.a, world.b = settle(world, "a"), settle(world, "b")
    yield world
    world.platform.close()


def operations(world):
    document = world.app.openapi()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation, schemas


def properties(schema, schemas):
    if "$ref" in schema:
        yield from properties(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas)
    for kind in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(kind, []):
            yield from properties(each, schemas)
    yield from schema.get("properties", {})


def fields(operation, schemas):
    """(place, name) of each parameter and of each field of a body."""
    for parameter in operation.get("parameters", []):
        yield parameter["in"], parameter["name"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        for name in dict.fromkeys(properties(content.get("schema", {}), schemas)):
            yield kind, name


def kind_of(name, field):
    return IDS_HERE.get((name, field)) or (None if (name, field) in NOT_HERE else IDS.get(field))


def test_every_field_of_every_route_is_an_id_of_a_known_kind_or_none(town):
    open_ = [
        (name, field)
        for name, operation, schemas in operations(town)
        for _, field in fields(operation, schemas)
        if kind_of(name, field) is None and field not in PLAIN | TEAMS and (name, field) not in NOT_HERE
    ]
    assert open_ == []


# -- requests -------------------------------------------------------------------------------------------------------------


def body_for(name, field, own):
    """A body that is right but for this field."""
    run = {"base_model": "luthier/tiny", "dataset": own["dataset"]}
    if field in {"model", "against"} and "chat" not in name:
        run = {"kind": "evaluate", "model": own["model"], "dataset": own["dataset"]}
    bodies = {
        "/api/jobs": run,
        "/api/jobs/estimate": run,
        "/fine-tune/{user_id}/start": run,
        "/api/hooks": {"name": "nightly", "run": dict(run)},
        "/train": {"dataset": own["dataset"]},
        "/api/models/transition": {"model": own["model"], "stage": "Staging"},
        "/models/transition": {"model": own["model"], "stage": "Staging"},
        "/api/models/rollback": {"model_name": own["name"]},
        "/models/rollback": {"model_name": own["name"]},
        "/api/models/recommend": {"text": "x"},
        "/models/recommend": {"text": "x"},
        "/api/chat": {"model": own["model"], "messages": [{"role": "user", "content": "x"}]},
        "/predict": {"image": [0.0] * 784},
        "/api/predict": {"image": [0.0] * 784},
        "/v1/fine_tuning/jobs": {"training_file": own["dataset"], "model": "luthier/tiny"},
        "/api/datasets/import": {"source": "hf://datasets/someone/rows"},
        "/api/keys/{key_id}/rotate": {},
        "/api/models/{model_id}/deploy": {"stage": "any"},
        "/api/models/{model_id}/links": {},
        "/api/users/{user_id}": {"role": "viewer"},
        "/api/jobs/{job_id}/reject": {"reason": "x"},
        "/api/budgets": {"limit_usd": "1.00"},
        "/api/webhooks/{webhook_id}": {"enabled": False},
        "/api/drift/models/{model_name}": {"share": 0.5},
    }
    found = copy.deepcopy(bodies.get(name.split(" ")[1]))
    if found is not None and field == "model_name" and name.endswith("/transition"):
        found.pop("model")
        found["version"] = "1"
    return found


def request_for(name, operation, place, field, value, own):
    """Method, path and the rest of a request whose every other id is the caller's own."""
    method, path = name.split(" ")
    more = {"headers": {"tus-resumable": "1.0.0"}} if "/uploads" in path else {}
    for each in re.findall(r"\{(\w+)\}", path):
        held = own.get(kind_of(name, each) or "", "model.safetensors")
        path = path.replace(f"{{{each}}}", value if place == "path" and each == field else held)
    if place == "query":
        more["params"] = {field: value}
    kinds = operation.get("requestBody", {}).get("content", {})
    if place == "multipart/form-data":
        more["data"], more["files"] = {field: value}, {"file": ("rows.jsonl", b"{}\n")}
    elif "application/json" in kinds:
        body = body_for(name, field, own)
        if body is not None:
            if place == "application/json":
                body[field] = (
                    {**body[field], "dataset": value}
                    if field == "run"
                    else [value]
                    if field == "against" and "datasets" in path
                    else value
                )
            more["json"] = body
    elif kinds:
        more["content"] = b"{}\n"
    return method, path, more


def cases(world):
    """Every operation with each of its id fields; one without is asked as it is."""
    for name, operation, schemas in operations(world):
        held = [(place, field) for place, field in fields(operation, schemas) if kind_of(name, field) and place != "header"]
        for place, field in dict.fromkeys(held):
            if place != "application/yaml":  # the same body in another spelling
                yield name, operation, place, field, kind_of(name, field)


def answered(world, key, request):
    method, path, more = request
    headers = {**({"x-api-key": key} if key else {}), **more.get("headers", {})}
    response = world.client.request(method, path, **{**more, "headers": headers})
    timed = {"x-request-id", "server-timing", "date", "ratelimit-remaining", "ratelimit-reset"}
    heads = {name: value for name, value in response.headers.items() if name not in timed}
    return response.status_code, re.sub(r"req_\w+", "req", response.text), heads


def values_of(kind, team):
    """The forms in which a field of this kind can name a thing."""
    if kind == "model":
        return [team["model"], team["name"], f"{team['name']}@1"]
    if kind == "user":
        return [team["user"]]
    return [team[kind]] if kind in team else []


def unknown_like(kind, value):
    if kind == "model" and not value.startswith("model_"):
        return "nobody-has-this" + ("@1" if "@" in value else "")
    return unknown(kind)


def without(text, value):
    return text.replace(value, "VALUE")


@pytest.mark.timeout(280)
def test_what_is_another_teams_is_what_nobody_has(town):
    before, wrong, asked = rows_of(town, town.b), [], 0
    for name, operation, place, field, kind in cases(town):
        for player in PLAYERS:
            for foreign in values_of(kind, town.b.own):
                nobody = unknown_like(kind, foreign)
                both = []
                for value in (foreign, nobody):
                    request = request_for(name, operation, place, field, value, town.a.own)
                    status, body, heads = answered(town, town.a.keys[player], request)
                    heads.pop("content-length", None)
                    both.append((status, without(body, value), heads))
                    asked += 1
                if both[0] != both[1] or both[0][0] >= 500:
                    wrong.append((name, field, player, both))
                elif both[0][0] < 400 and place != "query":
                    wrong.append((name, field, player, "was answered"))
    assert wrong == []
    assert asked > 500
    assert rows_of(town, town.b) == before


def test_what_was_deleted_or_cannot_be_an_id_is_refused_and_nothing_breaks(town):
    before, wrong = rows_of(town, town.b), []
    for name, operation, place, field, kind in cases(town):
        gone = town.a.deleted.get(kind)
        for value in (*ODD, *([gone] if gone else [])):
            status, _, _ = answered(town, town.a.keys["admin"], request_for(name, operation, place, field, value, town.a.own))
            # What a job cost stays in the ledger; a key that was revoked may be revoked again.
            stays = value == gone and name in {*KEPT, "DELETE /api/keys/{key_id}"}
            if status >= 500 or (status < 400 and place != "query" and not stays):
                wrong.append((name, field, value[:20], status))
    assert wrong == []
    assert rows_of(town, town.b) == before


def test_without_a_key_that_is_valid_nothing_is_answered(town):
    wrong = []
    for name, operation, place, field, kind in cases(town):
        if operation["security"] == []:
            continue
        for value in [*values_of(kind, town.b.own), *values_of(kind, town.a.own)][:2]:
            for key in (None, town.a.keys["revoked key"], town.a.keys["admin"][:-1]):
                status, body, _ = answered(town, key, request_for(name, operation, place, field, value, town.a.own))
                if status != 401 or value in body:
                    wrong.append((name, field, status))
    assert wrong == []


def test_a_role_or_a_scope_that_lacks_the_right_is_refused_before_any_id_is_looked_at(town):
    """A viewer and a key to read get 403 for their own, and the same 403 for what nobody has."""
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
            asks = any(word in name for word in ("estimate", "chat", "completions", "predict"))
            if not refused and player == "read-only key" and not asks:
                wrong.append((name, field, player, "may"))
    assert wrong == []


def test_a_path_or_a_field_gives_no_right(town):
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


def test_ones_own_is_found(town):
    """So that the refusals above are not those of a world in which nothing works. Deletes come last."""
    worked, wrong = set(), []
    for name, operation, place, field, kind in sorted(cases(town), key=lambda case: "DELETE" in case[0] or "cancel" in case[0]):
        for value in values_of(kind, town.a.own)[:1]:
            status, body, _ = answered(town, town.a.keys["admin"], request_for(name, operation, place, field, value, town.a.own))
            worked |= {field} if status < 400 else set()
            if status >= 500 and "base_unavailable" not in body:  # this model has no tokenizer of its own
                wrong.append((name, field, status, body))
    assert wrong == []
    missing = {field for _, _, _, field, kind in cases(town) if values_of(kind, town.a.own)} - worked
    assert missing <= {"against", "training_file", "validation_file"}
