"""What holds for every route and any input: documented, never a 5xx, other teams' things unknown, memory flat."""

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.at_once import at_once

import luthier
from luthier.datasets.types import Upload
from luthier.faces.rest.app import create_app
from luthier.jobs.spec import RunSpec

from .conftest import GOOD, World

KEYS = {"message", "type", "code", "param", "hint", "details", "request_id"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One platform for many requests that leave nothing behind."""
    world = World(tmp_path_factory.mktemp("shared") / "data")
    yield world
    world.platform.close()


def operations(world):
    paths = world.client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}": operation for path, methods in paths.items() for method, operation in methods.items()}


def test_every_route_says_what_it_does_and_how_it_refuses(shared):
    undescribed = [name for name, operation in operations(shared).items() if not operation.get("description")]
    silent = [name for name, operation in operations(shared).items() if "default" not in operation["responses"]]
    assert undescribed == []
    assert silent == []


def examples(world):
    """Each example of a body: the operation, the media type, the example itself; None where a media type has none."""
    for name, operation in operations(world).items():
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            named = [each["value"] for each in content.get("examples", {}).values()]
            for example in named or [content.get("example")]:
                yield name, kind, example


def test_every_body_has_an_example(shared):
    found = list(examples(shared))
    assert {name for name, _, _ in found} >= {"POST /api/jobs", "POST /api/chat", "POST /train", "POST /api/datasets"}
    assert [(name, kind) for name, kind, example in found if example is None] == []


ELSEWISE = {
    "POST /auth/login": "login_refused",
    "POST /auth/refresh": "unauthenticated",
    "POST /auth/signup": "not_found",
    "POST /auth/password": "forbidden",
    "POST /api/teams": "forbidden",
    "POST /api/models/import": "missing",
    "POST /api/invitations/accept": "forbidden",
    "POST /hooks/{hook}": "unauthenticated",
    "POST /v1/chat/completions": "base_unavailable",
    "POST /v1/completions": "base_unavailable",
    "POST /v1/embeddings": "no_embedder",
    "POST /api/chat": "base_unavailable",
    "POST /train": "missing",
    "POST /predict": "no_model",
    "POST /api/predict": "no_model",
    "POST /api/predict/picture": "no_model",
}
"""What an understood example is refused with: it takes a login, a password or a base for granted."""


def test_every_example_is_understood(shared):
    """The things that they name, or take for granted, do not exist here: that alone may be wrong with them."""
    for name, kind, example in examples(shared):
        method, path = name.split(" ")
        path = path.replace("{user_id}", shared.actor.user_id)
        if kind == "multipart/form-data":
            fields = {key: value for key, value in example.items() if key != "file"}
            answer = shared.ask(method, path, data=fields, files={"file": ("rows.jsonl", example["file"])})
        elif kind == "application/json":
            answer = shared.ask(method, path, json=example)
        else:
            answer = shared.ask(method, path, content=example, headers={"content-type": kind})
        elsewise = answer.status_code >= 400 and answer.json()["error"]["code"] == ELSEWISE.get(name)
        assert answer.status_code in {200, 201, 404} or elsewise, (name, kind, answer.text[:300])


def test_every_route_that_names_a_thing_documents_that_it_may_be_unknown(shared):
    named = {name: operation for name, operation in operations(shared).items() if "_id}" in name}
    assert [name for name, operation in named.items() if "404" not in operation["responses"]] == []


def test_every_list_that_a_refusal_points_to_is_a_route(shared):
    """Whoever names no hint of its own gets that of the noun: the list of such things, which must be there."""
    sources = Path(luthier.__file__).parent.rglob("*.py")
    nouns = {noun for path in sources for noun in re.findall(r'\b(?:NotFound|Gone)\("([a-z_]+)"\)', path.read_text("utf-8"))}
    assert nouns > {"job", "model", "key"}
    assert {f"GET /api/{noun}s" for noun in nouns} - operations(shared).keys() == set()


def test_every_field_of_a_run_is_described_or_speaks_for_itself(shared):
    properties = shared.client.get("/openapi.json").json()["components"]["schemas"]["RunSpec"]["properties"]
    assert set(properties) == set(RunSpec.model_fields)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*RunSpec.model_fields, "learning_rte", "output_dir", "", "\ud800"]) | st.text(max_size=12)
BODIES = st.dictionaries(FIELDS, VALUES, max_size=6) | VALUES
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(BODIES)
def test_no_body_at_all_brings_the_server_down(shared, value):
    answer = shared.raw(json.dumps(value).encode())
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert set(answer.json()["error"]) == KEYS


@FUZZ
@given(
    path=st.sampled_from(["train", "lora", "limits", "evaluate"]),
    name=st.text(max_size=10) | st.none(),
    value=VALUES,
    data=st.data(),
)
def test_no_field_of_a_run_brings_the_server_down(shared, path, name, value, data):
    fields = type(RunSpec.model_fields[path].default).model_fields
    chosen = name if name is not None else data.draw(st.sampled_from(sorted(fields)))
    answer = shared.raw(json.dumps(shared.spec(hardware="no-such-hardware", **{path: {chosen: value}})).encode())
    assert answer.status_code == 422, answer.text[:300]


@FUZZ
@given(st.binary(max_size=200))
def test_no_bytes_bring_the_server_down(shared, data):
    for kind in ("application/json", "application/yaml"):
        answer = shared.raw(data, kind)
        assert 400 <= answer.status_code < 500, answer.text[:300]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a": "' + b'\\"' * 500_000,
        b'{"a": "' + b"\\" * 1_000_000,
        b"{" + b",".join(b'"k%d": 1' % n for n in range(60_000)) + b', "k1": 1}',
        b'"' * 1_000_000,
        b"1" * 1_000_000,
        b'{"' + b"\\u0000" * 150_000 + b'": 1}',
    ],
    ids=["deep", "endless string", "backslashes", "key twice", "quotes", "digits", "nuls"],
)
def test_a_hostile_megabyte_is_refused_at_once(shared, body):
    shared.raw(b"{}")
    with at_once():
        answer = shared.raw(body)
    assert 400 <= answer.status_code < 500


def test_more_than_a_megabyte_of_json_is_refused(shared):
    answer = shared.raw(b" " * (1024 * 1024 + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_a_compressed_body_is_refused(shared):
    for path in ("/api/jobs", "/api/datasets"):
        answer = shared.ask("POST", path, content=b"x", headers={"content-type": "application/json", "content-encoding": "gzip"})
        assert answer.status_code == 415


@pytest.mark.parametrize("parts", [10_000, 1])
def test_a_hostile_form_is_refused_at_once(shared, parts):
    header = b"x" * (1_000_000 if parts == 1 else 1)
    part = b'--b\r\nX: %s\r\nContent-Disposition: form-data; name="name"\r\n\r\n\r\n' % header
    with at_once():
        answer = shared.upload(part * parts + b"--b--", headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code in {400, 413, 422}


class _Swallow:
    """A datasets service that reads its upload and keeps none of it."""

    def __init__(self, inner):
        self.inner = inner
        self.bytes = 0

    def upload(self, actor, upload):
        for chunk in upload.chunks:
            self.bytes += len(chunk)
        return self.inner.upload(actor, Upload(iter([GOOD]), "rows", None, None, None))


def asked(app, key, kind, body):
    """Status and body of one upload, spoken to the app itself: a test client would hold the whole body."""
    sent = []
    chunks = iter(body)

    async def receive():
        chunk = next(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(message):
        sent.append(message)

    headers = [(b"x-api-key", key.encode()), (b"content-type", kind)]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/datasets",
        "raw_path": b"/api/datasets",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("x", 80),
        "client": None,
    }
    anyio.run(app, scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize("form", [False, True])
def test_an_upload_passes_through_without_being_held(world, form):
    swallow = _Swallow(world.platform.datasets)
    app = create_app(dataclasses.replace(world.platform, datasets=swallow))
    before, after = b"", b""
    if form:
        before = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
        after = b"\r\n--b--\r\n"
    megabytes = 48

    def body():
        yield before
        for _ in range(megabytes * 16):
            yield bytes(65536)
        yield after

    asked(app, world.key, b"application/octet-stream", [GOOD])  # what is made once is not counted
    swallow.bytes = 0
    tracemalloc.start()
    status = asked(app, world.key, b"multipart/form-data; boundary=b" if form else b"application/octet-stream", body())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 201
    assert swallow.bytes == megabytes * 1024 * 1024
    assert peak < 12 * 1024 * 1024
