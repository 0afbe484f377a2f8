"""Runs about a model, as a client asks for them, and the files of an export."""

import hashlib

import pytest

from luthier.errors import ClientError

from .conftest import MODEL, Reply, as_json

JOB = "job_01kagz3vqdfyxtqn4w5b9zn8r2"
SUBMITTED = {"job": {"id": JOB, "state": "queued"}, "estimate": {}, "replayed": False}
DATA = bytes(range(256)) * 4
FILE = {"name": "model.safetensors", "bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}


def test_an_evaluation_says_only_what_was_given(server, client):
    server.say("POST /api/jobs", as_json(SUBMITTED, 201))
    assert client.models.evaluate("intents@1").id == JOB
    client.models.evaluate(MODEL, dataset="ds_1", against="intents", hardware="A100", evaluate={"rows": 4})
    first, second = (asked.json for asked in server.asked)
    assert first == {"kind": "evaluate", "model": "intents@1"}
    assert second == {
        "kind": "evaluate",
        "model": MODEL,
        "dataset": "ds_1",
        "against": "intents",
        "hardware": "A100",
        "evaluate": {"rows": 4},
    }
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2


def test_an_export_names_its_form(server, client):
    server.say("POST /api/jobs", as_json(SUBMITTED, 201))
    client.models.export("intents@1")
    client.models.export(MODEL, "adapter")
    client.models.export(MODEL, precision="bf16")
    assert [asked.json["export"] for asked in server.asked] == [
        {"format": "merged", "precision": "base"},
        {"format": "adapter", "precision": "base"},
        {"format": "merged", "precision": "bf16"},
    ]


def test_what_an_export_made_is_fetched_whole_and_checked(server, client, tmp_path):
    server.say(f"GET /api/jobs/{JOB}/files", as_json({"data": [FILE], "next_cursor": None}))
    server.say(f"GET /api/jobs/{JOB}/files/model.safetensors", Reply(body=DATA, headers={"content-length": str(len(DATA))}))
    seen = []
    (path,) = client.jobs.download(JOB, tmp_path / "out", on_progress=lambda *told: seen.append(told))
    assert path.read_bytes() == DATA
    assert seen[-1] == ("model.safetensors", len(DATA), len(DATA))
    assert [file.name for file in client.jobs.files(JOB)] == ["model.safetensors"]


def test_a_name_that_leads_elsewhere_is_no_file(server, client, tmp_path):
    server.say(f"GET /api/jobs/{JOB}/files", as_json({"data": [{**FILE, "name": "../evil"}], "next_cursor": None}))
    with pytest.raises(ClientError, match="no plain name"):
        client.jobs.download(JOB, tmp_path / "out")
    assert not (tmp_path / "out").exists()
