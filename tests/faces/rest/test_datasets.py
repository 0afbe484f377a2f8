"""What REST tells of datasets beside their report: samples, differences, mended versions."""

import hashlib
import json

from .conftest import GOOD, ROWS


def jsonl(*rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_an_upload_is_checked_against_another_and_may_leave_bad_rows_out(world):
    held_out = world.upload(query="?name=val").json()["id"]
    made = world.upload(GOOD + b"null\n", query=f"?against={held_out}&drop_bad_rows=true")
    report = made.json()["report"]
    assert (made.status_code, report["dropped_rows"]) == (201, 1)
    assert report["against"] == [{"name": "val@1", "rows": 12, "prompts": 0}]
    form = {"files": {"file": ("a.jsonl", GOOD + b"null\n")}, "data": {"against": held_out, "drop_bad_rows": "true"}}
    assert world.ask("POST", "/api/datasets", **form).json()["report"]["against"][0]["rows"] == 12
    for wrong in ({"drop_bad_rows": "perhaps"}, {"against": ",".join([held_out] * 11)}, {"against": "ds_" + "0" * 26}):
        assert world.ask("POST", "/api/datasets", files=form["files"], data=wrong).status_code in {404, 422}


def test_samples_are_rows_by_chance_by_length_or_by_what_was_remarked(world):
    path = f"/api/datasets/{world.dataset}/samples"
    first, again = (world.ask("GET", f"{path}?n=3&seed=7").json() for _ in range(2))
    assert first == again
    assert [each["row"] in ROWS for each in first["data"]] == [True] * 3
    assert world.ask("GET", f"{path}?by=longest&n=1").json()["data"][0]["row"] == ROWS[10]
    for wrong in ("by=best", "n=0", "n=101", "seed=-1", "n=1e3"):
        assert world.ask("GET", f"{path}?{wrong}").status_code == 422
    assert world.ask("GET", "/api/datasets/ds_" + "0" * 26 + "/samples").status_code == 404


def test_versions_are_compared_and_mended(world):
    first = world.upload(jsonl(*ROWS, ROWS[0])).json()["id"]
    fixed = world.ask("POST", f"/api/datasets/{first}/fix")
    assert (fixed.status_code, fixed.json()["counts"], fixed.json()["dropped"][0]["line"]) == (201, {"duplicate": 1}, 13)
    second = fixed.json()["dataset"]
    assert fixed.headers["location"] == f"/api/datasets/{second['id']}"
    assert (second["name"], second["version"], second["rows"]) == ("rows", 2, 12)
    found = world.ask("GET", f"/api/datasets/{first}/diff/{second['id']}").json()
    assert (found["same"], found["dropped"]["rows"], found["added"]["rows"], found["changed_rows"]) == (12, 1, 0, 0)
    assert world.ask("GET", f"/api/datasets/{first}/diff/ds_{'0' * 26}").status_code == 404
    names = [each["version"] for each in world.ask("GET", "/api/datasets?name=rows").json()["data"]]
    assert names == [2, 1]
    assert world.ask("GET", "/api/datasets?name=other").json()["data"] == []


def test_leaked_rows_are_told_before_anything_is_trained(world):
    held_out = world.upload(jsonl(*ROWS[:2], {"messages": [ROWS[5]["messages"][0], {"role": "assistant", "content": "else"}]}))
    spec = world.spec(validation_dataset=held_out.json()["id"])
    told = world.ask("POST", "/api/jobs/estimate", json=spec).json()["warnings"]
    assert told == [
        "2 rows of the validation dataset (lines 1, 2) are rows of rows@2, too; 1 more ask what a row of it asks.",
    ]
    assert world.ask("POST", "/api/jobs/estimate", json=world.spec()).json()["warnings"] == []
    submitted = world.ask("POST", "/api/jobs", json=spec).json()
    job = world.ask("GET", f"/api/jobs/{submitted['job']['id']}").json()
    assert (job["dataset"], job["validation_dataset"]) == (world.dataset, held_out.json()["id"])
    assert world.ask("DELETE", f"/api/datasets/{held_out.json()['id']}").status_code == 409


def test_a_preview_shows_tokens_with_their_loss_and_what_is_cut(world):
    path = f"/api/datasets/{world.dataset}/preview"
    found = world.ask("GET", f"{path}?rows=2&max_seq_len=12").json()
    assert (found["base_model"], found["method"], found["max_seq_len"], len(found["data"])) == ("luthier/tiny", "sft", 12, 2)
    (part,) = found["data"][0]["parts"]
    assert sum(token["cut"] for token in part["tokens"]) == part["cut"] > 0
    third = world.ask("GET", f"{path}?line=3&rows=1&batch_size=4&packing=false").json()
    assert ([row["line"] for row in third["data"]], third["packing"]["rows_per_pass"]) == ([3], 1)
    learned = "".join(token["text"] for token in third["data"][0]["parts"][0]["tokens"] if token["loss"])
    assert learned == ROWS[2]["messages"][-1]["content"] + "<|im_end|>"
    assert world.ask("GET", f"{path}?line=1000").json()["data"] == []
    for wrong in ("method=dpo", "method=best", "rows=0", "rows=21", "line=0", "max_seq_len=0", "base_model=x/y"):
        refused = world.ask("GET", f"{path}?{wrong}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, wrong.partition("=")[0])
    assert world.ask("GET", "/api/datasets/ds_" + "0" * 26 + "/preview").status_code == 404


def test_fields_are_read_from_others_and_the_rows_are_stored_so(world):
    rows = jsonl(*({"question": f"{n} + 1?", "answer": f"{n + 1}"} for n in range(12)))
    refused = world.upload(rows).json()["error"]
    assert (refused["code"], "--map prompt=question,completion=answer" in refused["hint"]) == ("missing_field", True)
    given = "prompt=question,completion=answer"
    made = world.upload(rows, query=f"?map={given}").json()
    assert made["report"]["mapping"] == {"prompt": "question", "completion": "answer"}
    sample = world.ask("GET", f"/api/datasets/{made['id']}/samples?n=1").json()["data"][0]["row"]
    assert sample.keys() == {"prompt", "completion"}
    form = {"files": {"file": ("a.jsonl", rows)}, "data": {"map": given}}
    assert world.ask("POST", "/api/datasets", **form).json()["rows_sha256"] == made["rows_sha256"]
    wrong = world.upload(rows, query="?map=prompt:question")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "map")


def test_distributions_are_histograms(world):
    spread = world.ask("GET", f"/api/datasets/{world.dataset}/distributions").json()
    assert sum(each["rows"] for each in spread["tokens"]["row"]["histogram"]) == 12
    assert spread["turns"]["max"] == 1
    assert world.ask("GET", "/api/datasets/ds_" + "0" * 26 + "/distributions").status_code == 404


def test_a_dataset_is_imported_from_the_hub_and_other_places_are_refused(world):
    made = world.ask("POST", "/api/datasets/import", json={"source": "openai/gsm8k", "map": "prompt=question,completion=answer"})
    assert (made.status_code, made.json()["name"], made.json()["rows"]) == (201, "gsm8k", 12)
    assert made.json()["report"]["origin"] == f"hub:openai/gsm8k@{'a' * 40}/main/train-00000-of-00001.parquet"
    assert made.headers["location"] == f"/api/datasets/{made.json()['id']}"
    for source in ("file:///etc/passwd", "s3://other-bucket/x", "https://169.254.169.254/latest"):
        refused = world.ask("POST", "/api/datasets/import", json={"source": source})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "source")
    assert world.ask("POST", "/api/datasets/import", json={"source": "a", "path": "x"}).status_code == 422


def test_an_import_is_made_once_for_each_key(world):
    asked = {"source": "openai/gsm8k", "map": "prompt=question,completion=answer"}
    first = world.ask("POST", "/api/datasets/import", json=asked, headers={"idempotency-key": "k1"})
    again = world.ask("POST", "/api/datasets/import", json=asked, headers={"idempotency-key": "k1"})
    assert (first.status_code, again.status_code, again.json()["id"]) == (201, 201, first.json()["id"])
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    other = world.ask("POST", "/api/datasets/import", json={**asked, "name": "b"}, headers={"idempotency-key": "k1"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    refused = world.ask("POST", "/api/datasets/import", json={"source": "s3://a/b"}, headers={"idempotency-key": "k2"})
    assert refused.status_code == 422
    assert world.ask("POST", "/api/datasets/import", json=asked, headers={"idempotency-key": "k2"}).status_code == 201


def test_rows_are_taken_back_as_they_were_uploaded_or_as_they_are_kept(world):
    table = b"question,answer\n" + b"".join(b"%d?,b%d\n" % (n, n) for n in range(12))
    made = world.upload(table, "?name=sums&map=prompt%3Dquestion,completion%3Danswer").json()
    path = f"/api/datasets/{made['id']}/download"
    assert world.ask("GET", path).content == table
    kept = world.ask("GET", f"{path}?format=jsonl")
    assert [json.loads(line)["prompt"] for line in kept.content.splitlines()] == [f"{n}?" for n in range(12)]
    assert hashlib.sha256(kept.content).hexdigest() == made["rows_sha256"] == kept.headers["etag"].strip('"')
    part = world.ask("GET", f"{path}?format=jsonl", headers={"range": "bytes=0-0"})
    assert (part.status_code, part.headers["content-range"]) == (206, f"bytes 0-0/{len(kept.content)}")
    assert world.ask("GET", f"{path}?format=csv").status_code == 422


def test_a_model_leads_back_to_the_version_that_it_learned_from(world):
    made = world.ask("GET", f"/api/models/{world.model().id}").json()
    assert (made["dataset"], made["card"]["lineage"]["dataset"]) == ("ds_1", "ds_1")
    assert len(made["card"]["lineage"]["dataset_sha256"]) == 64
    assert made["job_id"].startswith("job_")
