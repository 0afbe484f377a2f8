"""Runs of the kinds evaluate and export: what is named is pinned at submit and stays, what is measured is kept for good."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from luthier import ids
from luthier.errors import FieldInvalid, Gone, InUse, ModelNotReady, NotFound
from luthier.jobs import rules
from luthier.jobs.directory import AttemptStatus
from luthier.jobs.of_models import Named, completed
from luthier.jobs.spec import DpoSpec, ExportSpec, RunSpec
from luthier.registry.types import Finished, Stage
from luthier.values import BaseSource, ModelSource

UNKNOWN = "model_" + "0" * 26
SCORES = {"loss": 0.5, "perplexity": 1.6, "exact_match": 0.75, "metrics": {}}
EVALUATION = {"rows": 40, "answered": 40, "base": {**SCORES, "loss": 2.0}, "tuned": SCORES, "samples": []}
MERGED = {"format": "merged"}
EXPORTED = {"files": [{"name": "a"}], "checks": {"loads_again": True, "same_answers": True}}


@pytest.fixture
def trained(bench, alice):
    """Runs a training job to its end, and registers what came out as a real model."""

    def make(name: str = "numbers", actor=alice, **changes):
        job = bench.submit(actor, name=name, **changes)
        bench.settle()
        results = f"users/{actor.tenant_id}/jobs/{job.id}/attempts/1/results"
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            bench.storage.write(f"{results}/final_model/{file}", b"{}")
        spec = RunSpec.model_validate_json(bench.here(job).read_spec())
        return bench.models.register(Finished(actor.tenant_id, actor.user_id, job.id, spec, results))

    return make


@pytest.fixture
def about(bench, alice):
    """A run about a model."""

    def make(kind: str, model: str, actor=alice, **changes):
        return bench.jobs.submit(actor, RunSpec.model_validate({"kind": kind, "model": model, **changes})).job

    return make


@pytest.fixture
def leaves():
    """What a trainer leaves in its results."""

    def make(name: str, value: object):
        def act(run, here) -> int:
            here.storage.write(here.name("results", name), json.dumps(value).encode())
            here.write_status(AttemptStatus(attempt=here.number, state="succeeded"))
            return 0

        return act

    return make


def frozen(bench, job) -> dict:
    return json.loads(bench.here(job).read_spec())


def test_a_model_is_resolved_to_its_files_and_its_base(bench, trained, about, alice):
    model = trained(validation_dataset=bench.dataset_id)
    job = about("evaluate", "numbers@1")
    spec = frozen(bench, job)
    assert (spec["model"], spec["base_model"], spec["dataset"]) == (model.id, "luthier/tiny", bench.dataset_id)
    assert (job.model, job.kind, job.dataset) == (model.id, "evaluate", bench.dataset_id)
    pin = spec["sources"]["model"]
    assert pin["url"].endswith(f"/models/{model.id}/weights")
    assert [(file["name"], len(file["sha256"])) for file in pin["files"]] == [
        ("adapter_config.json", 64),
        ("adapter_model.safetensors", 64),
    ]
    assert spec["sources"]["base"]["revision"] == model.base_revision


def test_an_export_has_no_dataset(bench, trained, about):
    trained()
    job = about("export", "numbers@1", export=MERGED)
    assert "dataset" not in frozen(bench, job)
    assert job.dataset is None
    assert bench.get(job).dataset is None
    assert job.total_steps is None


def test_how_a_model_learned_is_how_it_is_measured(bench, trained, about):
    trained(train={"max_seq_len": 64, "precision": "fp32"})
    spec = frozen(bench, about("evaluate", "numbers@1", dataset=bench.dataset_id, train={"batch_size": 4}))
    assert (spec["train"]["max_seq_len"], spec["train"]["precision"], spec["train"]["batch_size"]) == (64, "fp32", 4)
    shorter = frozen(bench, about("evaluate", "numbers@1", dataset=bench.dataset_id, train={"max_seq_len": 32}))
    assert shorter["train"]["max_seq_len"] == 32


def test_a_name_means_its_production(bench, trained, about, alice):
    model = trained()
    with pytest.raises(NotFound, match="in Production"):
        about("export", "numbers", export=MERGED)
    bench.models.attach(replace(evaluated(bench, about, alice, model), job_id=ids.new(ids.JOB)))
    bench.models.transition(alice, model.id, Stage.PRODUCTION)
    assert about("export", "numbers", export=MERGED).model == model.id


def evaluated(bench, about, actor, model) -> Finished:
    """An evaluation of the model on rows that it did not learn from, as a supervisor hands it over."""
    job = about("evaluate", model.id, dataset=bench.dataset_id)
    results = f"users/{actor.tenant_id}/jobs/{job.id}/attempts/1/results"
    bench.storage.write(f"{results}/evaluation.json", json.dumps(EVALUATION).encode())
    bench.jobs.cancel(actor, job.id)
    spec = RunSpec.model_validate_json(bench.here(job).read_spec())
    other = spec.sources.dataset.model_copy(update={"id": ids.new(ids.DATASET), "sha256": "0" * 64})
    spec = spec.model_copy(update={"dataset": other.id, "sources": spec.sources.model_copy(update={"dataset": other})})
    return Finished(actor.tenant_id, actor.user_id, job.id, spec, results)


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_foreign_model_is_as_unknown_as_one_that_never_was(bench, trained, about, bob, kind):
    model = trained()
    more = {"export": MERGED} if kind == "export" else {"dataset": bench.dataset_id}
    said = set()
    for ref in (model.id, UNKNOWN, "numbers@1", "nothing@1"):
        with pytest.raises(NotFound) as refused:
            about(kind, ref, bob, **more)
        said.add((refused.value.message, refused.value.hint))
    assert len(said) == 1


def test_what_does_not_go_together_is_refused_with_what_to_do(bench, trained, about, alice):
    model = trained()
    refused = [
        ({"kind": "evaluate"}, "no `validation_dataset`"),
        ({"kind": "evaluate", "dataset": bench.dataset_id, "method": "dpo"}, "dpo cannot learn from"),
        ({"kind": "evaluate", "dataset": bench.dataset_id, "against": model.id}, "the model itself"),
        ({"kind": "evaluate", "dataset": bench.dataset_id, "base_model": "other"}, "stands on luthier/tiny"),
        ({"kind": "evaluate", "dataset": bench.dataset_id, "method": "grpo"}, None),
    ]
    for changes, words in refused:
        with pytest.raises((FieldInvalid, ValidationError), match=words):
            about(**{"model": model.id, **changes})
    assert [job.kind for job in bench.jobs.list(alice).data] == ["train"]


def pin(model_id: str = "model_a", method: str = "sft", base: str = "luthier/tiny") -> ModelSource:
    source = BaseSource(id=base, revision="1", url="luthier:tiny")
    return ModelSource(id=model_id, name=f"{model_id}@1", job_id="job_1", method=method, base=source, url="file:///x", files=())


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (Named(pin(method="classifier")), "is a classifier"),
        (Named(pin(), pin("model_b", base="another/base")), "model_a@1 on luthier/tiny, model_b@1 on another/base"),
        (Named(pin(method="grpo")), "a grader that is not known any more"),
    ],
)
def test_what_a_model_cannot_be_is_told(named, words):
    spec = RunSpec(kind="evaluate", model="a", dataset="ds_1", against="b" if named.against else None)
    with pytest.raises(FieldInvalid, match=words) as refused:
        completed(spec, named)
    assert refused.value.hint


def test_a_section_of_the_method_comes_from_the_run_that_made_the_model():
    made_by = RunSpec(base_model="luthier/tiny", dataset="ds_1", method="dpo", dpo=DpoSpec(beta=0.3), validation_dataset="ds_2")
    found = completed(RunSpec(kind="evaluate", model="a"), Named(pin(method="dpo"), None, made_by))
    assert (found.method, found.dpo, found.dataset) == ("dpo", DpoSpec(beta=0.3), "ds_2")
    other = completed(RunSpec(kind="evaluate", model="a", method="sft", dataset="ds_3"), Named(pin(method="dpo"), None, made_by))
    assert (other.method, other.dpo, other.dataset) == ("sft", None, "ds_3")


@pytest.mark.parametrize("method", ["sft", "dpo", "orpo", "kto", "grpo"])
def test_a_model_of_any_method_is_exported(method):
    found = completed(RunSpec(kind="export", model="a", export=ExportSpec(format="merged")), Named(pin(method=method)))
    assert (found.method, found.base_model, found.model) == (method, "luthier/tiny", "model_a")


def test_a_model_is_measured_as_it_learned_also_when_its_job_was_deleted(bench, trained, about, alice):
    model = trained(train={"max_seq_len": 64}, validation_dataset=bench.dataset_id)
    bench.jobs.delete(alice, model.job_id)
    spec = frozen(bench, about("evaluate", model.id))
    assert (spec["train"]["max_seq_len"], spec["dataset"]) == (64, bench.dataset_id)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "evaluate"}, "Field required"),
        ({"kind": "export", "model": "m"}, "needs the section `export`"),
        ({"kind": "export", "model": "m", "export": MERGED, "lora": {"rank": 2}}, "`lora` is no field"),
        ({"kind": "export", "model": "m", "export": MERGED, "dataset": "ds_1"}, "`dataset` is no field"),
        ({"kind": "export", "model": "m", "export": MERGED, "against": "n"}, "`against` is no field"),
        ({"kind": "export", "model": "m", "export": MERGED, "train": {"precision": "bf16"}}, "`train.precision` is no field"),
        ({"kind": "export", "model": "m", "export": {"format": "onnx"}}, "'adapter', 'merged', 'gguf' or 'gguf-adapter'"),
        ({"kind": "export", "model": "m", "export": {"format": "adapter", "precision": "bf16"}}, "for the other formats"),
        ({"kind": "evaluate", "model": "m", "train": {"epochs": 2}}, "`train.epochs` is no field"),
        ({"kind": "evaluate", "model": "m", "name": "n"}, "`name` is no field"),
        ({"kind": "evaluate", "model": "m", "export": MERGED}, "`export` is no field"),
        ({"kind": "train", "model": "m", "base_model": "b", "dataset": "d"}, "`model` is no field"),
        ({"kind": "train", "base_model": "b"}, "Field required"),
        ({"kind": "train", "base_model": "", "dataset": "d"}, "at least 1 character"),
        ({"kind": "quantise", "model": "m"}, "'evaluate' or 'export'"),
    ],
)
def test_fields_of_other_kinds_are_no_fields(fields, words):
    with pytest.raises(ValidationError, match=words):
        RunSpec.model_validate(fields)


def test_a_model_on_its_way_says_so(bench, about, alice):
    job = bench.submit(name="later")
    with pytest.raises(ModelNotReady, match="queued"):
        about("export", "later", export=MERGED)
    with pytest.raises(ModelNotReady):
        about("export", job.id.replace("job_", "model_"), export=MERGED)


def test_an_evaluation_is_no_model_on_its_way(bench, trained, about):
    trained()
    job = about("export", "numbers@1", export=MERGED)
    with pytest.raises(NotFound):
        about("export", job.id.replace("job_", "model_"), export=MERGED)


def test_a_model_stays_while_a_run_needs_it(bench, trained, about, alice):
    model, other = trained(), trained("other")
    job = about("evaluate", model.id, dataset=bench.dataset_id, against=other.id)
    for used in (model, other):
        with pytest.raises(InUse, match=job.id):
            bench.models.delete(alice, used.id)
    bench.jobs.cancel(alice, job.id)
    bench.models.delete(alice, other.id)
    with pytest.raises(Gone):
        about("evaluate", model.id, dataset=bench.dataset_id, against=other.id)


def test_what_was_measured_comes_onto_the_card_and_the_model_is_let_go(bench, trained, about, leaves, alice):
    model = trained()
    bench._supervisor = bench.another(registry=bench.models)
    bench.trainer.attempts = [leaves("evaluation.json", EVALUATION)]
    first = about("evaluate", model.id, dataset=bench.dataset_id)
    bench.settle()
    second = about("evaluate", "numbers@1", dataset=bench.dataset_id)
    bench.settle()
    assert [bench.get(job).state for job in (first, second)] == ["succeeded", "succeeded"]
    assert bench.get(first).model_id is None
    card = bench.models.get(alice, model.id).card
    assert [record.job_id for record in card.evaluations] == [second.id, first.id]
    assert card.evaluations[0].dataset == bench.dataset_id
    assert card.evaluations[0].evaluation.tuned.exact_match == 0.75
    assert card.evaluation is None
    assert card.metrics == model.card.metrics
    bench.models.delete(alice, model.id)


def test_an_evaluation_that_left_nothing_is_no_success(bench, trained, about, leaves, alice):
    model = trained()
    bench._supervisor = bench.another(registry=bench.models)
    bench.trainer.attempts = [leaves("else.json", {})]
    job = about("evaluate", model.id, dataset=bench.dataset_id)
    bench.settle()
    assert bench.get(job).error.code == "storage"
    assert bench.models.get(alice, model.id).card.evaluations == ()


def test_an_export_succeeds_only_with_a_checked_manifest(bench, trained, about, leaves):
    trained()
    bench.trainer.attempts = [leaves("export.json", EXPORTED)]
    good = about("export", "numbers@1", export=MERGED)
    bench.settle()
    bench.trainer.attempts = [leaves("else.json", {})]
    bad = about("export", "numbers@1", export=MERGED)
    bench.settle()
    assert (bench.get(good).state, bench.get(bad).error.code) == ("succeeded", "storage")


@pytest.mark.parametrize("broken", [None, {}, {"files": []}, {**EXPORTED, "checks": {"loads_again": True}}])
def test_a_manifest_without_files_or_checks_is_none(broken):
    assert rules.export_verdict(broken) is not None
    assert rules.export_verdict(EXPORTED) is None


def test_short_work_has_a_slot_of_its_own_and_trains_with_nobody(bench, fake, trained, about, leaves):
    trained()
    bench.trainer.attempts = [fake.runs(), leaves("export.json", EXPORTED)]
    busy = bench.submit()
    bench.supervisor.tick()
    bench.until_started(busy)
    jobs = [about("export", "numbers@1", export=MERGED) for _ in range(2)]
    started = len(bench.executor.started)
    bench.supervisor.tick()
    assert [bench.get(job).state for job in jobs].count("queued") == 1
    bench.until_last_word(jobs[0])
    bench._eventually(lambda: bench.supervisor.tick() or all(bench.get(job).state == "succeeded" for job in jobs))
    assert bench.get(busy).state == "running"
    assert [len(launch.job_urls) for launch in bench.executor.started[started:]] == [1, 1]


def test_it_is_billed_to_its_owner_and_estimated(bench, trained, alice):
    trained()
    spec = RunSpec.model_validate({"kind": "evaluate", "model": "numbers@1", "dataset": bench.dataset_id, "hardware": "A100"})
    estimate = bench.jobs.estimate(alice, spec)
    assert (estimate.rows, estimate.steps) == (40, 0)
    assert estimate.seconds > 0
    assert float(estimate.cost_usd) > 0
    export = RunSpec.model_validate({"kind": "export", "model": "numbers@1", "export": MERGED})
    assert bench.jobs.estimate(alice, export).memory.total_bytes > estimate.memory.logits_bytes
