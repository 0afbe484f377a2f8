"""The catalogue of bad input, as a caller over HTTP meets it. Never a 500, never an echo, nothing left behind."""

import codecs
import json
from pathlib import Path

import pytest

from luthier import ids
from luthier.datasets.types import Upload
from luthier.jobs import store
from luthier.jobs.types import JobState
from luthier.registry.rules import model_id_of

from .conftest import GOOD, ROWS

IN_CATALOGUE = {
    *(f"D{n:02}" for n in range(1, 21)),
    *(f"J{n:02}" for n in range(1, 35)),
    *(f"M{n:02}" for n in range(1, 5)),
}
ELSEWHERE = {
    "J17": "tests/jobs/test_yaml12.py",
    "J23": "tests/training/test_opening.py",
    "J24": "tests/training/test_opening.py",
    "J27": "tests/faces/rest/test_money.py",
    "J28": "tests/faces/rest/test_money.py",
    "J33": "tests/datasets/test_template_steps.py",
}
"""Rows that need more than a request, and where they are shown."""
JOB = "/api/jobs/"
FILE = "/api/models/{model}/files/adapter_model.safetensors"


def line(text):
    """A good file whose line 7 is `text`."""
    lines = GOOD.splitlines()
    lines[6] = text if isinstance(text, bytes) else text.encode()
    return b"\n".join(lines)


def talk(*roles, content="Hi"):
    return json.dumps({"messages": [{"role": role, "content": content} for role in roles]})


def beside(field):
    return line("{" + field + ", " + json.dumps(ROWS[0])[1:])


def file(data, query="?name=bad"):
    return lambda world: world.upload(data, query)


def run(**changes):
    return lambda world: world.submit(**changes)


def train(**changes):
    return run(train=changes)


def body(data, kind="application/json"):
    return lambda world: world.raw(data, kind)


def yaml(text):
    data = text if isinstance(text, bytes) else text.encode()
    return lambda world: world.raw(data.replace(b"$DS", world.dataset.encode()), "application/yaml")


def number(text):
    """A body with a number that no JSON writer would produce."""
    return lambda world: world.raw(json.dumps(world.spec(train={"learning_rate": "?"})).replace('"?"', text).encode())


def get(path, **headers):
    return lambda world: world.ask("GET", path, headers=headers)


def key(value):
    return lambda world: world.submit({"idempotency-key": value})


def ranged(value):
    return lambda world: world.ask("GET", FILE.format(model=world.model().id), headers={"range": value})


def foreign_dataset(world):
    theirs = world.platform.datasets.upload(world.stranger, Upload(iter([GOOD]), name="theirs"))
    return world.submit(dataset=theirs.id)


def deleted_dataset(world):
    world.ask("DELETE", f"/api/datasets/{world.dataset}")
    return world.submit()


def stopped_twice(world):
    path = f"{JOB}{world.job()}/stop"
    assert world.ask("POST", path).json() == world.ask("POST", path).json()
    return world.ask("POST", path)


def resumed_while_it_waits(world):
    return world.ask("POST", f"{JOB}{world.job()}/resume")


def while_it_runs(method, verb=""):
    def asked(world):
        job_id = world.job()
        moved(world, job_id, JobState.STARTING, JobState.RUNNING)
        return world.ask(method, f"{JOB}{job_id}{verb}")

    return asked


def other_body(world):
    world.submit({"idempotency-key": "k"})
    return world.submit({"idempotency-key": "k"}, seed=7)


def in_flight(world):
    with world.platform.accounts.in_flight(world.actor, "k"):
        return world.submit({"idempotency-key": "k"})


def upload_in_flight(world):
    with world.platform.accounts.in_flight(world.actor, "k"):
        return world.upload(headers={"idempotency-key": "k"})


def other_bytes(data=GOOD, query="?name=rows"):
    def call(world):
        assert world.upload(headers={"idempotency-key": "k"}).status_code == 201
        return world.upload(data, query, headers={"idempotency-key": "k"})

    return call


def upload_with_the_key_of_a_job(world):
    world.submit({"idempotency-key": "k"})
    return world.upload(headers={"idempotency-key": "k"})


def linked_out(world):
    model = world.model()
    root = world.platform.settings.data / "users" / world.actor.tenant_id / "models" / model.id / "weights"
    (root / "adapter_config.json").unlink()
    (root / "adapter_config.json").symlink_to("/etc/passwd")
    return world.ask("GET", f"/api/models/{model.id}/files/adapter_config.json")


def deleted_model(world):
    path = f"/api/models/{world.model().id}"
    assert world.ask("DELETE", path).status_code == 204
    return world.ask("GET", f"{path}/download")


def model_uses(state):
    """Every use of a model whose job is in this state, by each of its names."""
    calls = {
        "chat": chat_with,
        "promote": lambda world, ref: world.ask("POST", "/api/models/transition", json={"model": ref, "stage": "Production"}),
        "download": lambda world, ref: world.ask("GET", f"/api/models/{ref}/download"),
    }

    def use(call, ref_of):
        def asked(world):
            job_id = world.job(name="soon")
            if state == "failed":
                fail(world, job_id)
            return calls[call](world, ref_of(job_id))

        return asked

    refs = (model_id_of, lambda _: "soon", lambda _: "soon@1")
    return [use(call, ref_of) for call in calls for ref_of in refs]


def chat_with(world, ref):
    return world.ask("POST", "/api/chat", json={"model": ref, "messages": [{"role": "user", "content": "Hi"}]})


def fail(world, job_id):
    """As the supervisor does it when a trainer has given up."""
    moved(world, job_id, JobState.STARTING, JobState.FAILED, error_code="diverged", error_hint="Go on.")


def moved(world, job_id, *states, **more):
    with world.platform.database.write(world.actor.tenant_id) as session:
        row = store.get(session, job_id)
        for state in states:
            store.move(session, row, store.Step(state, world.platform.now(), "test"), **more)


CASES = [
    ("D01", file(b""), 422, "dataset_empty"),
    ("D02", file(b"\n \n"), 422, "dataset_empty"),
    ("D02", file(codecs.BOM_UTF8), 422, "dataset_empty"),
    ("D03", file(codecs.BOM_UTF8 + GOOD), 201, None),
    ("D04", file(GOOD.decode().encode("utf-16")), 422, "encoding"),
    ("D04", file(line(talk("user", "assistant", content="Grü").replace("\\u00fc", "ü").encode("latin-1"))), 422, "encoding"),
    ("D05", file(line(talk("user", "assistant")[:30])), 422, "json_syntax"),
    ("D06", file(json.dumps(ROWS).encode()), 201, None),
    *(("D07", file(line(text)), 422, "row_not_object") for text in ("null", "3", '"x"', "[]")),
    ("D08", file(line("[" * 100_000)), 422, "too_deep"),
    ("D09", file(GOOD + b'{"messages": "' + b"x" * 3_000_000), 413, "line_too_long"),
    ("D10", file(beside('"id": ' + "1" * 5000)), 422, "number"),
    ("D11", file(beside('"id": NaN')), 422, "json_syntax"),
    ("D12", file(beside('"messages": []')), 422, "duplicate_key"),
    ("D13", file(line(r'{"prompt": "\ud800", "completion": "x"}')), 422, "bad_unicode"),
    ("D14", file(line(r'{"prompt": "\u0000", "completion": "x"}')), 422, "nul_character"),
    ("D15", file(line(talk("user"))), 422, "no_target"),
    ("D16", file(line(talk("user", "robot"))), 422, "roles"),
    ("D17", file(line(talk("user", "assistant", content=" "))), 422, "empty_content"),
    ("D18", file(line('{"prompt": "a", "completion": "b"}')), 422, "schema_mismatch"),
    ("D19", file(line(talk("user", "assistant", content="word " * 3000))), 201, None),
    ("D20", file(GOOD.splitlines()[0] + b"\n"), 201, None),
    ("J01", body(b""), 400, "json_invalid"),
    ("J01", body(b"{"), 400, "json_invalid"),
    ("J01", body(b"[]"), 422, None),
    ("J01", body(b"null"), 422, None),
    ("J01", body(b"{}", "text/plain"), 415, "unsupported_media_type"),
    ("J02", run(learning_rte=1), 422, "extra_forbidden"),
    *(("J03", train(learning_rate=value), 422, None) for value in (0, -1, 1e9, "1e-4", True)),
    *(("J03", number(text), 422, None) for text in ("NaN", "Infinity", "1e999", "9" * 5000)),
    *(("J04", train(epochs=value), 422, None) for value in (0, -1, 1.5, 1e6, 2**63)),
    *(("J05", train(batch_size=value), 422, None) for value in (0, 10**6)),
    *(("J06", run(lora=value), 422, None) for value in ({"rank": 0}, {"rank": 3.5}, {"rank": 100_000}, {"alpha": 0})),
    ("J06", run(lora={"dropout": 1.5}), 422, None),
    *(("J07", run(lora={"targets": value}), 422, None) for value in ([], ["nose"], "(a+)+$")),
    *(("J08", run(base_model=value), 422, "model_not_allowed") for value in ("../m", "/etc", "http://x/y", "user/repo@main")),
    ("J09", foreign_dataset, 404, "not_found"),
    ("J09", deleted_dataset, 410, "deleted"),
    ("J10", run(hardware="H9000"), 422, None),
    ("J11", train(max_seq_len=100_000), 422, None),
    ("J12", train(epochs=1, max_steps=5), 422, None),
    ("J12", train(max_steps=5, warmup_steps=6), 422, None),
    ("J12", train(max_steps=5, eval_steps=6), 422, None),
    *(("J13", run(**{name: "/x"}), 422, None) for name in ("output_dir", "resume_from", "logging_dir", "deepspeed", "hub_token")),
    ("J13", run(sources=None), 201, None),
    *(("J14", run(name=name), 422, None) for name in ("", "x" * 300, "a\r\nb", "\x1b[31mred")),
    *(("J14", run(name=name), 201, None) for name in ("<script>alert(1)</script>", "${jndi:ldap://x/y}")),
    *(("J15", run(name=name), 201, None) for name in ("$(id)", "; rm -rf /", "--flag")),
    *(("J16", run(**{where: {name: "/x"}}), 422, None) for where in ("env", "train") for name in ("LD_PRELOAD", "HF_ENDPOINT")),
    ("J18", yaml("a: &a [x]\nb: [*a, *a]"), 422, "aliases_forbidden"),
    ("J19", yaml("seed: 1\nseed: 2"), 422, "duplicate_key"),
    ("J20", yaml("[" * 3000), 422, "too_deep"),
    ("J20", yaml("a: " + "x" * 70_000), 413, "too_large"),
    *(("J21", yaml(f"{{base_model: luthier/tiny, dataset: $DS, seed: {v}}}"), 422, None) for v in ("no", "012", "1:30")),
    ("J21", yaml("{base_model: luthier/tiny, dataset: $DS, train: {learning_rate: 1e-4}}"), 201, None),
    ("J22", yaml("a: 1\n---\nb: 2"), 422, "two_documents"),
    ("J22", yaml("a:\n\t- b"), 422, "yaml_character"),
    ("J22", yaml(codecs.BOM_UTF8 + b"a: 1"), 422, "yaml_character"),
    ("J22", yaml("a: 1\rb: 2"), 422, "yaml_character"),
    ("J25", stopped_twice, 200, None),
    ("J26", resumed_while_it_waits, 409, "wrong_state"),
    ("J26", while_it_runs("POST", "/resume"), 409, "wrong_state"),
    ("J26", while_it_runs("DELETE"), 409, "wrong_state"),
    ("J29", other_body, 422, "idempotency_key_reused"),
    ("J29", in_flight, 409, "idempotency_key_in_flight"),
    ("J29", upload_in_flight, 409, "idempotency_key_in_flight"),
    ("J29", upload_with_the_key_of_a_job, 422, "idempotency_key_reused"),
    *(("J29", other_bytes(data), 422, "idempotency_key_reused") for data in (GOOD[:-9], GOOD * 2, GOOD[::-1], b"")),
    ("J29", other_bytes(query="?name=other"), 422, "idempotency_key_reused"),
    ("J29", lambda world: world.upload(headers={"idempotency-key": ""}), 400, "idempotency_key_invalid"),
    ("J29", key("k" * 300), 400, "idempotency_key_invalid"),
    ("J29", key(""), 400, "idempotency_key_invalid"),
    *(("J30", get(f"/api/jobs?limit={value}"), 422, None) for value in ("-1", "0", "1e9", "1000000000", "١", "1_0")),
    ("J30", get("/api/jobs?after=garbage"), 400, "cursor_invalid"),
    ("J30", get("/api/jobs?after=%00"), 400, "cursor_invalid"),
    *(("J31", get(f"/api/jobs?{query}"), 422, "extra_forbidden") for query in ("sort=name;drop", "__class__=1", "limitt=3")),
    *(("J32", get(JOB + text), 404, "not_found") for text in ("%00", "%2e%2e", "..%5c", "x" * 4096, str(2**63), "١", "1_0")),
    *(("J34", run(seed=seed), 422, None) for seed in (-1, 2**64)),
    ("J34", run(report_to="http://x/y"), 422, "extra_forbidden"),
    *(("M01", get(f"/api/models/{text}"), 404, None) for text in ("..%2f..%2fetc%2fpasswd", "%252e", "....//", "..%5c", "/abs")),
    ("M01", lambda w: w.ask("GET", f"/api/models/{w.model().id}/files/..%2f..%2fmetadata.json"), 404, "not_found"),
    ("M02", linked_out, 409, "artifact_corrupt"),
    ("M03", ranged("bytes=0-"), 206, None),
    ("M03", ranged("bytes=9-0"), 416, "range_invalid"),
    ("M03", ranged("bytes=" + "0-1," * 1000 + "2-3"), 416, "range_invalid"),
    ("M03", ranged("bytes=99999999999-"), 416, "range_invalid"),
    ("M04", get(f"/api/models/{ids.new(ids.MODEL)}/download"), 404, "not_found"),
    ("M04", deleted_model, 410, "deleted"),
    *(("M04", use, 409, "model_not_ready") for use in model_uses("queued")),
    *(("M04", use, 409, "model_not_ready") for use in model_uses("failed")),
]


@pytest.mark.parametrize(("call", "status", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_answered_with_its_status_and_code(world, call, status, code):
    answer = call(world)
    assert answer.status_code == status, answer.text[:500]
    if status >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "code", "param", "hint", "details", "request_id"}
        assert error["request_id"] == answer.headers["x-request-id"]
        assert error["hint"]
        assert code in (None, error["code"])


def test_every_row_of_the_catalogue_has_a_case():
    assert {case[0] for case in CASES} | set(ELSEWHERE) == IN_CATALOGUE
    assert [path for path in ELSEWHERE.values() if not (Path(__file__).parents[3] / path).is_file()] == []


@pytest.mark.parametrize(
    "call",
    [
        run(base_model="SeCrEt/x"),
        run(SeCrEt_field=1, name="SeCrEt\r\n"),
        run(hardware="SeCrEt"),
        run(dataset="SeCrEt"),
        body(b'{"a": SeCrEt'),
        yaml("SeCrEt: ["),
        file(b'{"SeCrEt": "SeCrEt"}'),
        get("/api/jobs?after=SeCrEt"),
        get("/api/jobs/SeCrEt"),
        get("/api/models/SeCrEt"),
        key("SeCrEt " * 50),
    ],
)
def test_an_error_never_repeats_what_was_sent(world, call):
    answer = call(world)
    assert answer.status_code >= 400
    assert "SeCrEt" not in answer.text.replace("SeCrEt_field", "")
