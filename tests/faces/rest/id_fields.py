"""Which fields of which operations hold an id of a team's thing, from the OpenAPI document; and a request that holds one.

A field that is not named here fails `test_tenant_matrix.py`: say what it holds.
"""

from __future__ import annotations

import copy
import re

from .conftest import GOOD
from .neighbours import unknown

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
    "actor": "user",
    "on": "job",
    "run.dataset": "dataset",
    "run.validation_dataset": "dataset",
    "run.model": "model",
    "run.against": "model",
    "grader.model": "model",
    "grader.graders.model": "model",
    "grpo.grader.model": "model",
    "grpo.grader.graders.model": "model",
    "run.grpo.grader.model": "model",
    "run.grpo.grader.graders.model": "model",
    "method.reinforcement.grader.model": "model",
    "method.reinforcement.grader.graders.model": "model",
}
"""By the field's name, with those that it lies in."""
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
    ("POST /fine-tune/{user_id}/start", "user_id"): "me",
    ("POST /datasets/{user_id}/upload", "user_id"): "me",
    ("GET /datasets/{user_id}/list", "user_id"): "me",
    ("GET /models/{user_id}/list", "user_id"): "me",
}
NOT_HERE = {
    ("GET /api/jobs/{job_id}/events", "after"): "the number of an event of this one job",
    ("GET /v1/fine_tuning/jobs/{job_id}/events", "after"): "the same",
    ("GET /v1/fine_tuning/jobs/{job_id}/checkpoints", "after"): "the same, of checkpoints",
    ("POST /hooks/{hook}", "hook"): "whoever signs may; without its signature every answer is the same 401",
    ("POST /api/chat", "tool_call_id"): "made up by the model",
    ("POST /api/chat", "messages.tool_call_id"): "the same",
    ("POST /v1/chat/completions", "messages.tool_call_id"): "the same",
    ("GET /api/audit", "request_id"): "a request is no thing of a team: `test_a_row_is_found_by_the_id_that_its_error_shows`",
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
    revision role rows run scopes second_person seconds secret seed sha256 share since source sources spend_cap_usd stage state
    stop stream stream_options functions must_call
    classifier.model run.base_model run.classifier.model
    suffix tail_bytes target temperature token tool_choice tools top_logprobs top_p train until Upload-Checksum Upload-Length
    Upload-Metadata Upload-Offset url user version embedding language q tags task text
    webhook-id webhook-signature webhook-timestamp x-filename X-Filename
    """,
    )
)
"""Fields that hold no id of a team's thing. `invitation`, `token` and `refresh_token` are secrets: whoever has one may."""
OURS = re.compile(r"(run\.)?sources\b")
"""What the platform sets itself, and takes from nobody: `test_what_only_the_platform_says_is_taken_from_nobody`."""
LIKE_AN_ID = re.compile(
    r"[._](ids?|datasets?|models?|against|files?|jobs?|keys?|users?|teams?|runs?|uploads?|hooks?)$|_(id|ids|file|dataset|model)$"
)
TEAMS = {"team"}
"""A team that a login asks for: `test_another_team_is_no_team`."""


def operations(world):
    document = world.app.openapi()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation, schemas


def properties(schema, schemas, above=(), inside=()):
    """The names of all fields, each with those that it lies in: `run.dataset`. Lists and maps have no name of their own."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name not in inside:
            yield from properties(schemas[name], schemas, above, (*inside, name))
    for kind in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(kind, []):
            yield from properties(each, schemas, above, inside)
    for name, each in schema.get("properties", {}).items():
        yield ".".join((*above, name))
        yield from properties(each, schemas, (*above, name), inside)
    for kind in ("items", "additionalProperties"):
        if isinstance(schema.get(kind), dict):
            yield from properties(schema[kind], schemas, above, inside)


def fields(operation, schemas):
    """(place, name) of each parameter and of each field of a body."""
    for parameter in operation.get("parameters", []):
        yield parameter["in"], parameter["name"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        for name in dict.fromkeys(properties(content.get("schema", {}), schemas)):
            yield kind, name


def is_plain(name, field):
    """Whether it is said to hold no id. Deep inside, only what is called like an id must be said."""
    if (name, field) in NOT_HERE or OURS.match(field):
        return True
    if "." in field:
        return field in PLAIN or not LIKE_AN_ID.search(field)
    return field in PLAIN | TEAMS


def kind_of(name, field):
    return IDS_HERE.get((name, field)) or (None if (name, field) in NOT_HERE else IDS.get(field))


# -- requests -------------------------------------------------------------------------------------------------------------


def judged(by, model):
    """A grader that asks this model, itself or inside another one."""
    judge = {"type": "score_model", "name": "x", "model": model, "input": [{"role": "user", "content": "x"}], "range": [0, 1]}
    return judge if by == "grader.model" else {"type": "multi", "graders": {"x": judge}, "calculate_output": "x"}


def run_for(field, value, own):
    """A run that is right but for this field."""
    train = {"base_model": "luthier/tiny", "dataset": own["dataset"]}
    if field == "against":
        return {"kind": "evaluate", "model": own["model"], "dataset": own["dataset"], "against": value}
    if field == "model":
        return {"kind": "evaluate", "model": value, "dataset": own["dataset"]}
    if field.startswith("grpo.grader"):
        return {**train, "method": "grpo", "grpo": {"grader": judged(field.removeprefix("grpo."), value)}}
    return {**train, field: value} if field else train


def body_for(name, field, value, own):
    """A body that is right but for this field, or None where the route takes none."""
    path = name.split(" ")[1]
    if path in {"/api/jobs", "/api/jobs/estimate", "/fine-tune/{user_id}/start"}:
        return run_for(field, value, own)
    if path == "/api/hooks":
        return {"name": f"nightly {value}"[:60], "run": run_for(field.removeprefix("run."), value, own)}
    if "/graders/" in path:
        grader = judged(field, value) if field else {"type": "string_check", "operation": "eq", "input": "x", "reference": "x"}
        return {"grader": {"name": "x", **grader}, "model_sample": "x", "item": {}}
    if field.startswith("method."):
        grader = judged(field.removeprefix("method.reinforcement."), value)
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        return {"training_file": own["dataset"], "model": "luthier/tiny", "method": method}
    bodies = {
        "/train": {"base_model": "luthier/tiny", "dataset": own["dataset"]},
        "/api/models/transition": {"model": own["model"], "stage": "Staging"},
        "/models/transition": {"model": own["model"], "stage": "Staging"},
        "/api/models/rollback": {"model_name": own["name"]},
        "/models/rollback": {"model_name": own["name"]},
        "/api/models/recommend": {"text": "x"},
        "/models/recommend": {"text": "x"},
        "/api/chat": {"model": own["model"], "messages": [{"role": "user", "content": "x"}]},
        "/v1/chat/completions": {"model": own["model"], "messages": [{"role": "user", "content": "x"}]},
        "/v1/completions": {"model": own["model"], "prompt": "x"},
        "/predict": {"image": [0.0] * 784},
        "/api/predict": {"image": [0.0] * 784},
        "/api/predict/picture": {"picture": "aGVsbG8="},
        "/v1/fine_tuning/jobs": {"training_file": own["dataset"], "model": "luthier/tiny"},
        "/api/datasets/import": {"source": "openai/gsm8k", "map": "prompt=question,completion=answer"},
        "/api/keys/{key_id}/rotate": {},
        "/api/models/{model_id}/deploy": {"stage": "any"},
        "/api/models/{model_id}/links": {},
        "/api/users/{user_id}": {"role": "viewer"},
        "/api/jobs/{job_id}/reject": {"reason": "x"},
        "/api/budgets": {"limit_usd": "1.00"},
        "/api/webhooks/{webhook_id}": {"enabled": False},
        "/api/drift/models/{model_name}": {"share": 0.5},
        "/api/billing/refunds": {"job_id": own["job"], "amount_usd": "0.01", "reason": "x"},
    }
    found = copy.deepcopy(bodies.get(path))
    if found is not None and field == "model_name" and path.endswith("/transition"):
        found.pop("model")
        found["version"] = "1"
    if found is not None and field:
        found[field] = [value] if field == "against" else value
    return found


def request_for(name, operation, place, field, value, own):
    """Method, path and the rest of a request whose every other id is the caller's own."""
    method, path = name.split(" ")
    more = {"headers": {"tus-resumable": "1.0.0", "upload-offset": "0"}} if "/uploads" in path else {}
    for each in re.findall(r"\{(\w+)\}", path):
        held = own.get(kind_of(name, each) or "", "adapter_model.safetensors")
        path = path.replace(f"{{{each}}}", value if place == "path" and each == field else held)
    if place == "query":
        more["params"] = {field: value}
    kinds = operation.get("requestBody", {}).get("content", {})
    if place == "multipart/form-data":
        more["data"], more["files"] = {field: value}, {"file": ("rows.jsonl", GOOD)}
    elif "application/json" in kinds:
        inside = place == "application/json"
        body = body_for(name, field if inside else "", value if inside else "", own)
        if body is not None:
            more["json"] = body
    elif kinds:
        kind = next((kind for kind in kinds if kind != "multipart/form-data"), "text/plain")
        more["headers"] = {**more.get("headers", {}), "content-type": kind}
        more["content"] = GOOD
    return method, path, more


def cases(world):
    """Every operation with each of its id fields."""
    for name, operation, schemas in operations(world):
        held = [(place, field) for place, field in fields(operation, schemas) if kind_of(name, field) and place != "header"]
        for place, field in dict.fromkeys(held):
            if place != "application/yaml":  # the same body in another spelling
                yield name, operation, place, field, kind_of(name, field)


def answered(world, key, request):
    """Status, text and headers, without what differs each time. `key` is a secret, or headers that take the place of one."""
    method, path, more = request
    known = {"x-api-key": key} if isinstance(key, str) else key
    headers = {**known, **more.get("headers", {})}
    response = world.client.request(method, path, **{**more, "headers": headers})
    timed = {"x-request-id", "server-timing", "date", "ratelimit-remaining", "ratelimit-reset"}
    heads = {name: value for name, value in response.headers.items() if name not in timed}
    return response.status_code, re.sub(r"req_\w+", "req", response.text), heads


def values_of(kind, team):
    """The forms in which a field of this kind can name a thing."""
    if kind == "model" and kind in team:
        return [team["model"], team["name"], f"{team['name']}@1"]
    if kind == "me" and kind in team:
        return [team["me"], team["user"]]
    return [team[kind]] if kind in team else []


def unknown_like(kind, value):
    """What nobody has, in the same form."""
    if kind == "model" and not value.startswith("model_"):
        return "nobody-has-this" + ("@1" if "@" in value else "")
    if kind == "me":
        return unknown("user" if value.startswith("user") else "me")
    return unknown(kind)


def without(text, value):
    return text.replace(value, "VALUE")
