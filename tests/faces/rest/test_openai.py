"""The official SDK against the platform behind a real socket; its own types read every answer."""

import hashlib
import json

import openai
import pytest
from tests.faces.rest.official import client_of

from luthier.datasets.store import DatasetRow
from luthier.datasets.types import Finding, Report
from luthier.errors import NotFound
from luthier.faces.rest.openai.requests import JobCreate
from luthier.faces.rest.openai.routes import unread
from luthier.jobs.directory import AttemptStatus, Event, Manifest, ManifestFile, checkpoint_folder
from luthier.jobs.projection import directory
from luthier.jobs.queue import Ending, JobQueue
from luthier.jobs.rules import Outcome
from luthier.jobs.types import JobState, Line


@pytest.fixture
def sdk(world):
    with client_of(world) as client:
        yield client


def rows(count=12):
    row = {"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a%d"}]}
    return b"".join(json.dumps(row).replace("%d", str(n)).encode() + b"\n" for n in range(count))


def uploaded(sdk, name="train.jsonl", data=None):
    return sdk.files.create(file=(name, data or rows()), purpose="fine-tune")


def test_a_file_is_uploaded_listed_read_and_deleted(sdk):
    file = uploaded(sdk)
    assert (file.filename, file.status, file.purpose, file.bytes) == ("train.jsonl", "processed", "fine-tune", len(rows()))
    assert [each.id for each in sdk.files.list()] == [file.id]
    assert sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).read() == rows()
    assert sdk.files.delete(file.id).deleted
    assert list(sdk.files.list(purpose="fine-tune")) == []
    with pytest.raises(openai.APIStatusError, match="deleted"):
        sdk.files.retrieve(file.id)


def test_bad_rows_are_refused_at_the_upload_with_their_line(sdk):
    with pytest.raises(openai.BadRequestError) as refused:
        uploaded(sdk, data=rows(3) + b'{"messages": []}\n')
    assert refused.value.param is None or isinstance(refused.value.param, str)
    assert "Line 4" in refused.value.message
    assert "Add the answer" in str(refused.value)  # what to do: these clients print nothing but the message
    assert list(sdk.files.list()) == []


def test_another_purpose_is_refused_and_nothing_is_kept(sdk):
    with pytest.raises(openai.BadRequestError, match="purpose") as refused:
        sdk.files.create(file=("a.jsonl", rows()), purpose="batch")
    assert (refused.value.param, refused.value.type) == ("purpose", "invalid_request_error")
    assert list(sdk.files.list()) == []


def test_a_field_after_the_file_counts_as_the_node_client_sends_it(world):
    edge = b"--x\r\n"
    file = edge + b'Content-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n' + rows() + b"\r\n"
    purpose = edge + b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert world.ask("POST", "/v1/files", content=file + purpose, headers=headers).json()["filename"] == "t.jsonl"
    refused = world.ask("POST", "/v1/files", content=file + b"--x--\r\n", headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "purpose")
    assert len(world.ask("GET", "/v1/files").json()["data"]) == 1


def test_pages_of_files_follow_each_other(sdk):
    made = [uploaded(sdk, f"f{n}.jsonl", rows(3 + n)).id for n in range(5)]
    assert [file.id for file in sdk.files.list(limit=2)] == made[::-1]


def test_a_supervised_job_with_the_fields_of_the_sdk(sdk):
    file, held_out = uploaded(sdk), uploaded(sdk, "held.jsonl", rows(4).replace(b"q", b"other q"))
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=file.id,
        validation_file=held_out.id,
        suffix="support",
        seed=7,
        metadata={"team": "mail"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}},
    )
    assert (job.status, job.seed, job.training_file, job.validation_file) == ("queued", 7, file.id, held_out.id)
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.learning_rate_multiplier == 0.5
    assert job.hyperparameters.batch_size == 1  # what `auto` comes to for so few rows
    assert (job.method.type, job.metadata, job.error) == ("supervised", {"team": "mail"}, None)
    assert sdk.fine_tuning.jobs.retrieve(job.id) == job
    assert [each.id for each in sdk.fine_tuning.jobs.list(extra_query={"metadata[team]": "mail"})] == [job.id]
    assert list(sdk.fine_tuning.jobs.list(metadata={"team": "other"})) == []
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_job_is_paused_resumed_and_cancelled(sdk):
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=uploaded(sdk).id)
    assert (sdk.fine_tuning.jobs.pause(job.id).status, sdk.fine_tuning.jobs.retrieve(job.id).finished_at) == ("queued", None)
    assert sdk.fine_tuning.jobs.resume(job.id).status == "queued"
    sdk.fine_tuning.jobs.pause(job.id)
    assert sdk.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        sdk.fine_tuning.jobs.resume(job.id)


def test_a_job_waits_in_validating_files_and_fails_with_line_and_field(world, sdk):
    good, bad = uploaded(sdk).id, uploaded(sdk, "held.jsonl", rows(4).replace(b"q", b"other q")).id
    refused = Finding(line=2, code="json_syntax", severity="error", message="This is no JSON.", fix="Mend it.")
    report = Report(format="jsonl", schema_name=None, bytes=9, rows=3, usable_rows=2, errors=1, findings=(refused,))
    with world.platform.database.write(world.actor.tenant_id) as session:
        session.get(DatasetRow, bad).state = "validating"
    assert sdk.files.retrieve(bad).status == "uploaded"
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=good, validation_file=bad)
    assert (job.status, job.error, job.estimated_finish) == ("validating_files", None, None)
    with world.platform.database.write(world.actor.tenant_id) as session:
        row = session.get(DatasetRow, bad)
        row.state, row.report = "rejected", report.model_dump_json()
    world.platform.jobs.unchecked.round()
    failed = sdk.fine_tuning.jobs.retrieve(job.id)
    steps = [(event.level, event.data["status"]) for event in sdk.fine_tuning.jobs.list_events(job.id)]
    assert steps == [("error", "failed"), ("info", "validating_files")]
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "json_syntax", "validation_file")
    assert failed.error.message == "Line 2: This is no JSON. Mend it."
    assert sdk.files.retrieve(bad).status_details == "This is no JSON. Mend it."


def test_a_job_says_what_auto_has_come_to(sdk, world):
    job = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=uploaded(sdk).id)
    chosen = world.ask("GET", f"/api/jobs/{job.id}").json()["chosen"]
    numbers = job.hyperparameters
    assert (numbers.n_epochs, numbers.batch_size) == (chosen["epochs"], chosen["batch_size"]) == (10, 1)
    assert numbers.learning_rate_multiplier == pytest.approx(chosen["learning_rate"] / 2e-4, rel=1e-4)
    assert job.method.supervised.hyperparameters.model_dump() == numbers.model_dump()


def test_hyperparameters_at_their_older_place(sdk):
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=uploaded(sdk).id, hyperparameters={"n_epochs": 4})
    assert (job.model, job.hyperparameters.n_epochs) == ("luthier/tiny", 4)


def test_a_dpo_job(sdk):
    pair = {"input": {"messages": [{"role": "user", "content": "q"}]}}
    pair["preferred_output"] = [{"role": "assistant", "content": "good"}]
    pair["non_preferred_output"] = [{"role": "assistant", "content": "bad"}]
    data = b"".join(json.dumps(pair).replace('"q"', f'"q{n}"').encode() + b"\n" for n in range(6))
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=uploaded(sdk, "pairs.jsonl", data).id,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
    )
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.2)


def test_a_reinforcement_job_with_a_grader(sdk):
    data = b"".join(
        json.dumps({"messages": [{"role": "user", "content": f"{n}+1="}], "answer": str(n + 1)}).encode() + b"\n"
        for n in range(6)
    )
    grader = {
        "type": "string_check",
        "name": "same",
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
    }
    job = sdk.fine_tuning.jobs.create(
        model="luthier/tiny",
        training_file=uploaded(sdk, "sums.jsonl", data).id,
        method={"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"compute_multiplier": 0.5}}},
    )
    assert (job.method.type, job.method.reinforcement.grader.name) == ("reinforcement", "same")


def test_a_judge_is_the_base_that_is_trained_or_another_that_is_allowed(sdk, world):
    data = b"".join(json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}).encode() + b"\n" for n in range(6))
    judge = {"type": "score_model", "name": "judge", "model": "tiny", "range": [0, 10]}
    judge["input"] = [{"role": "user", "content": "Is {{ sample.output_text }} right for {{ item.answer }}?"}]

    def reinforced(grader):
        return sdk.fine_tuning.jobs.create(
            model="luthier/tiny",
            training_file=uploaded(sdk, "sums.jsonl", data).id,
            method={"type": "reinforcement", "reinforcement": {"grader": grader}},
        )

    assert reinforced(judge).method.reinforcement.grader.model == "tiny"
    # The SDK's strict types know no label_model here, though its servers have it.
    labels = {**judge, "type": "label_model", "labels": ["yes", "no"], "passing_labels": ["yes"]}
    body = {"model": "tiny", "training_file": world.upload(data).json()["id"]}
    body["method"] = {"type": "reinforcement", "reinforcement": {"grader": {k: v for k, v in labels.items() if k != "range"}}}
    assert world.ask("POST", "/v1/fine_tuning/jobs", json=body).json()["method"]["reinforcement"]["grader"]["labels"] == [
        "yes",
        "no",
    ]
    other = next(base.id for base in world.platform.bases.list() if base.id != "luthier/tiny")
    job_id = reinforced({**judge, "model": other}).id
    spec = json.loads(world.platform.storage.read(f"users/{world.actor.tenant_id}/jobs/{job_id}/run.yaml"))
    assert {name: base["id"] for name, base in spec["sources"]["judges"].items()} == {other: other}
    with pytest.raises(openai.BadRequestError) as refused:
        reinforced({**judge, "model": "gpt-9"})
    assert refused.value.code == "model_not_available"


def test_a_judge_is_tried_before_a_run_is_paid_for_and_what_it_reads_is_billed(sdk, world):
    world.build_base()
    asked = [{"role": "user", "content": "Is {{ sample.output_text }} right for {{ item.answer }}? yes or no"}]
    judge = {"type": "label_model", "name": "judge", "model": "tiny", "input": asked, "labels": ["yes", "Q"]}
    judge["passing_labels"] = ["yes"]
    trial = {"grader": judge, "model_sample": "5", "item": {"answer": "5"}}

    def tried(path="run", **changes):
        return sdk.post(f"/fine_tuning/alpha/graders/{path}", body={**trial, **changes}, cast_to=object)

    ran = tried()  # an engine that finds certain what stands in the prompt
    assert (ran["reward"], ran["metadata"]["errors"]["model_grader_server_error"]) == (1.0, False)
    (used,) = ran["model_grader_token_usage_per_model"].items()
    assert used == ("tiny", ran["metadata"]["token_usage"])
    billed = world.ask("GET", "/api/billing/usage").json()["tokens"]
    assert [(each["model"], each["kind"], each["prompt_tokens"]) for each in billed] == [("luthier/tiny", "chat", used[1])]
    parts = {"judge": judge, "same": {"type": "string_check", "reference": "{{ item.answer }}"}}
    both = {"type": "multi", "graders": parts, "calculate_output": "0.5 * judge + 0.25 * same"}
    assert tried(grader=both)["reward"] == 0.75
    long = tried(model_sample="word " * 5000)
    assert long["metadata"]["errors"]["model_grader_server_error"] is True
    assert "context" in long["metadata"]["errors"]["model_grader_server_error_details"]
    for path in ("run", "validate"):
        with pytest.raises(openai.BadRequestError) as refused:
            tried(path, grader={**judge, "model": "gpt-9"})
        assert refused.value.code == "model_not_available"


def test_a_job_on_a_model_that_is_not_allowed_says_which_are(sdk):
    with pytest.raises(openai.BadRequestError, match="not") as refused:
        sdk.fine_tuning.jobs.create(model="gpt-9", training_file=uploaded(sdk).id)
    assert (refused.value.code, refused.value.param) == ("model_not_available", "model")
    assert "LUTHIER_MODEL_ALIASES" in refused.value.body["hint"]


def test_an_unknown_file_and_an_unknown_job(sdk):
    file = uploaded(sdk)
    for missing, param in (
        ({"training_file": "file-abc"}, "training_file"),
        ({"validation_file": "file-abc"}, "validation_file"),
    ):
        with pytest.raises(openai.NotFoundError, match="No such file") as refused:
            sdk.fine_tuning.jobs.create(**{"model": "luthier/tiny", "training_file": file.id, **missing})
        assert (refused.value.param, "/v1/files" in refused.value.body["hint"]) == (param, True)
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.fine_tuning.jobs.retrieve("ftjob-abc")
    assert "/v1/fine_tuning/jobs" in refused.value.body["hint"]


def test_codes_that_programs_branch_on_are_those_of_openai(world, sdk):
    world.build_base()
    question = [{"role": "user", "content": "x"}]
    for model in ("gpt-9", "meta/llama", "ft:gpt-4o-mini:org:x:abc"):
        with pytest.raises(openai.NotFoundError) as refused:
            sdk.chat.completions.create(model=model, messages=question)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(model="luthier/tiny", messages=[{"role": "user", "content": "word " * 5000}])
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError) as refused:
        sdk.with_options(api_key="sk-other").models.list()
    assert refused.value.code == "invalid_api_key"


def test_what_is_gone_is_not_found_and_what_is_needed_is_not_asked_for_again(world, sdk):
    file = uploaded(sdk)
    job = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=file.id)
    with pytest.raises(openai.ConflictError) as refused:
        sdk.files.delete(file.id)
    assert refused.value.response.headers["x-should-retry"] == "false"  # the client would ask two more times
    sdk.fine_tuning.jobs.cancel(job.id)
    sdk.files.delete(file.id)
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.files.retrieve(file.id)
    assert refused.value.code == "deleted"
    assert world.ask("GET", f"/api/datasets/{file.id}").status_code == 410


def test_jobs_are_found_by_their_metadata_or_by_having_none(world, sdk):
    file = uploaded(sdk)
    marked = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=file.id, metadata={"who": "me"})
    bare = sdk.fine_tuning.jobs.create(model="luthier/tiny", training_file=file.id)
    assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"who": "me"})] == [marked.id]
    assert [job.id for job in sdk.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [bare.id]
    assert "x-ignored-fields" not in world.ask("GET", "/v1/fine_tuning/jobs", params={"metadata[who]": "me"}).headers


def test_unknown_fields_are_passed_over_and_named(world):
    body = {
        "model": "luthier/tiny",
        "training_file": world.dataset,
        "service_tier": "x",
        "method": {"type": "supervised", "new": 1},
    }
    answer = world.ask("POST", "/v1/fine_tuning/jobs?beta=1", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "beta, method.new, service_tier"


def test_what_is_unread_is_named_with_its_path():
    sent = {"model": "m", "training_file": "f", "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 1.0, "odd": 2}}}}
    assert list(unread(sent, JobCreate)) == ["method.dpo.hyperparameters.odd"]


def test_events_come_newest_first_in_pages(world, sdk):
    job_id = world.job()
    at = world.platform.now()
    steps = [Event(attempt=1, seq=n, at=at, kind="step", step=n, data={"loss": 2.0 / (n + 1)}) for n in range(5)]
    world.events(job_id, 1, *steps, Event(attempt=1, seq=5, at=at, kind="warning", level="warning", message="slow disk"))
    events = list(sdk.fine_tuning.jobs.list_events(job_id, limit=2))
    assert [event.id for event in events] == [*(f"ftevent-1-{n}" for n in (5, 4, 3, 2, 1, 0)), "ftevent-step-0"]
    assert (events[-1].message, events[-1].data) == ("The job is queued: submitted.", {"status": "queued"})
    assert (events[0].level, events[0].type, events[0].message) == ("warn", "message", "slow disk")
    assert (events[1].type, events[1].data) == ("metrics", {"step": 4, "loss": 0.4})


def finished(world):
    """A job that a trainer brought to its end."""
    job_id = world.job(name="support")
    at = world.platform.now()
    columns = ["step", "loss", "learning_rate", "grad_norm", "margin"]
    told = {"columns": columns, "steps": [[1, 2.0, 0.1, 3.0, 0.5], [2, 1.5, 0.05, 2.0, 0.75]]}  # quick steps share an event
    steps = Event(attempt=1, seq=0, at=at, kind="step", step=2, data={"loss": 1.5, **told})
    world.events(job_id, 1, steps, Event(attempt=1, seq=2, at=at, kind="eval", step=2, data={"eval_loss": 1.75}))
    queue = JobQueue(world.platform.database, world.platform.storage, world.platform.billing, (), world.platform.now)
    (held,) = queue.claim("tests", Line({"local-cpu"}))
    status = AttemptStatus(attempt=1, state="succeeded", step=2, total_steps=2, tokens_seen=80)
    queue.finish(held.fence, Ending(Outcome(JobState.SUCCEEDED, "trained"), status=status))
    return job_id


def test_a_job_that_has_ended_says_what_it_took_and_leaves_its_steps_as_a_file(world, sdk):
    job = sdk.fine_tuning.jobs.retrieve(finished(world))
    assert (job.status, job.trained_tokens, job.estimated_finish) == ("succeeded", 80, None)
    (result,) = job.result_files
    file = sdk.files.retrieve(result)
    assert (file.purpose, file.filename, file.status) == ("fine-tune-results", f"{job.id}.csv", "processed")
    read = sdk.files.content(result).read()
    assert len(read) == file.bytes
    assert read.decode().splitlines() == [
        "step,train_loss,valid_loss,learning_rate,grad_norm,margin",
        "1,2.0,,0.1,3.0,0.5",
        "2,1.5,1.75,0.05,2.0,0.75",
    ]
    unfinished = sdk.fine_tuning.jobs.create(model="tiny", training_file=uploaded(sdk).id)
    assert unfinished.result_files == []
    for wrong in (f"results-{unfinished.id}", "results-job_" + "0" * 26, "results-x"):
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(wrong)


def test_files_are_listed_from_either_end(sdk):
    made = [uploaded(sdk, f"f{n}.jsonl", rows(3 + n)).id for n in range(3)]
    assert [file.id for file in sdk.files.list(order="asc", limit=2)] == made
    with pytest.raises(openai.BadRequestError):
        sdk.files.list(order="asc", after="nothing")


def test_a_checkpoint_is_chatted_with_by_its_name(world, sdk):
    world.build_base()
    job_id = finished(world)
    here = directory(world.platform.storage, world.actor.tenant_id, job_id).attempt(1)
    files = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}", "optimizer.safetensors": b"moments"}
    facts = {name: ManifestFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    for name, data in files.items():
        world.platform.storage.write(here.name("checkpoints", checkpoint_folder(2), name), data)
    manifest = Manifest(step=2, files=facts).model_dump_json().encode()
    world.platform.storage.write(here.name("checkpoints", checkpoint_folder(2), "COMPLETE.json"), manifest)
    (checkpoint,) = sdk.fine_tuning.jobs.checkpoints.list(job_id)
    name = checkpoint.fine_tuned_model_checkpoint
    assert name.endswith(":ckpt-step-2")
    assert (checkpoint.metrics.train_loss, checkpoint.metrics.full_valid_loss) == (1.5, 1.75)
    question = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 3}
    answer = sdk.chat.completions.create(model=name, **question)
    assert answer.system_fingerprint == f"{job_id}-1-2"
    assert sdk.completions.create(model=name, prompt="abc", max_tokens=2).model == name
    with pytest.raises(NotFound):
        world.platform.jobs.saved(world.stranger, job_id[-8:], 2)
    for wrong in (name.replace("step-2", "step-3"), name.replace(job_id[-8:], "0" * 8)):
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(model=wrong, **question)


def test_a_grader_is_tried_on_one_answer(sdk):
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {
            "same": {"type": "string_check", "operation": "eq", "reference": "{{ item.answer }}"},
            "near": {"type": "text_similarity", "evaluation_metric": "fuzzy_match", "reference": "{{ item.answer }}"},
        },
        "calculate_output": "0.5 * same + 0.5 * near",
    }
    said = sdk.post(
        "/fine_tuning/alpha/graders/run", body={"grader": grader, "model_sample": "5", "item": {"answer": "5"}}, cast_to=object
    )
    assert (said["reward"], said["sub_rewards"]) == (1.0, {"same": 1.0, "near": 1.0})
    simple = {**grader["graders"]["same"], "name": "same", "input": "{{ sample.output_text }}"}
    ran = sdk.fine_tuning.alpha.graders.run(grader=simple, model_sample="6", item={"answer": "5"})
    assert (ran.reward, ran.metadata.errors.other_error, ran.metadata.type) == (0.0, False, "string_check")
    assert sdk.fine_tuning.alpha.graders.validate(grader=simple).grader.name == "same"
    with pytest.raises(openai.BadRequestError, match="python"):
        sdk.fine_tuning.alpha.graders.validate(grader={"type": "python", "name": "p", "source": "1"})


def test_tuned_models_are_listed_by_their_name_and_found_by_it(world, sdk):
    model = world.model()
    names = [each.id for each in sdk.models.list()]
    assert "luthier/tiny" in names
    tuned = next(name for name in names if name.startswith("ft:luthier/tiny:"))
    assert sdk.models.retrieve(tuned).owned_by == world.actor.tenant_id
    assert sdk.models.retrieve("luthier/tiny").id == "luthier/tiny"
    assert sdk.models.delete(tuned).deleted
    assert model
    with pytest.raises(openai.APIStatusError):
        sdk.models.retrieve(tuned)
