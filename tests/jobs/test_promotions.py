"""A training is followed by a comparison with today's Production, and a promotion that misses one queues it."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from luthier.datasets.types import Upload
from luthier.errors import BudgetExceeded, EvaluationNeeded
from luthier.jobs.directory import AttemptStatus
from luthier.jobs.spec import EvaluateSpec
from luthier.registry.promotions import Promotions
from luthier.registry.types import Stage

SIDE = {"perplexity": 1.6, "exact_match": 0.75, "metrics": {}}
MEASURED = {"rows": 40, "base": {**SIDE, "loss": 2.0}, "tuned": {**SIDE, "loss": 0.5}, "samples": []}


@pytest.fixture
def held_out(bench, alice):
    rows = b"".join(json.dumps({"prompt": f"Name {n}", "completion": f"{n}!"}).encode() + b"\n" for n in range(20))
    return bench.datasets.upload(alice, Upload([rows], name="held-out")).id


@pytest.fixture
def promotions(bench):
    """The registry as the supervisor has it; what a trainer of this bench leaves is a measured model."""
    promotions = Promotions(bench.models, bench.jobs)
    bench._supervisor = bench.another(registry=promotions)
    bench.trainer.attempts = [leaves]
    return promotions


def leaves(run, here) -> int:
    """A training leaves a model and what it measured, an evaluation what it measured beside another model."""
    spec = json.loads(here.job.read_spec())
    found = {**MEASURED, "against": {**SIDE, "loss": 0.6}} if spec.get("against") else MEASURED
    files = {"evaluation.json": found}
    if spec["kind"] == "train":
        files |= {"checks.json": {"finite": True, "changes_logits": True}, "final_model/adapter_config.json": {}}
        files |= {"final_model/adapter_model.safetensors": {}, "metrics.json": {}}
        files["checks.json"] |= {"max_logit_change": 1.0, "loads_again": True, "same_after_reload": True}
    for name, value in files.items():
        here.storage.write(here.name("results", *name.split("/")), json.dumps(value).encode())
    here.write_status(AttemptStatus(attempt=here.number, state="succeeded"))
    return 0


@pytest.fixture
def trained(bench, promotions, alice, held_out):
    def make(**changes):
        job = bench.submit(alice, **{"name": "numbers", "validation_dataset": held_out, **changes})
        bench.settle()
        assert bench.get(job).error is None
        return bench.models.get(alice, bench.get(job).model_id)

    return make


def evaluations(bench, alice) -> list:
    return [job for job in bench.jobs.list(alice).data if job.kind == "evaluate"]


def test_a_training_is_followed_by_a_comparison_with_todays_production(bench, promotions, trained, held_out, alice):
    first = trained()
    assert evaluations(bench, alice) == []  # training measured it against its base; there is no Production yet
    promotions.transition(alice, first.id, Stage.PRODUCTION)
    second = trained()
    (run,) = evaluations(bench, alice)
    assert (run.model, run.spec.against, run.dataset, run.created_by) == (second.id, first.id, held_out, alice.user_id)
    assert (run.state, bench.billing.job_cost(alice, run.id).settled) == ("succeeded", True)
    found = promotions.compare(alice, "numbers@2")
    assert (found.measured_by, found.against.loss, found.gate.passes, found.running) == (run.id, 0.6, True, ())
    assert promotions.transition(alice, second.id, Stage.PRODUCTION).stage is Stage.PRODUCTION


def test_a_register_that_is_repeated_after_a_crash_queues_one_comparison(bench, promotions, trained, alice):
    promotions.transition(alice, trained().id, Stage.PRODUCTION)
    held = []
    real, promotions.register = promotions.register, lambda finished: held.append(finished) or real(finished)
    trained()
    for _ in range(2):
        real(held[0])
    assert len(evaluations(bench, alice)) == 1


@pytest.mark.parametrize("off", ["setting", "spec"])
def test_nothing_is_compared_where_that_is_turned_off_and_a_promotion_then_queues_it(bench, trained, held_out, alice, off):
    promotions = Promotions(bench.models, bench.jobs, automatic=off != "setting")
    bench._supervisor = bench.another(registry=promotions)
    promotions.transition(alice, trained().id, Stage.PRODUCTION)
    second = trained(evaluate=EvaluateSpec(automatic=off != "spec", rows=7).model_dump())
    assert evaluations(bench, alice) == []
    refusals = []
    for _ in range(2):  # the second finds the run under way
        with pytest.raises(EvaluationNeeded, match="not compared with version 1") as refused:
            promotions.transition(alice, second.id, Stage.PRODUCTION)
        refusals.append(refused.value)
    (run,) = evaluations(bench, alice)
    assert {refusal.details["job_id"] for refusal in refusals} == {run.id}
    assert run.id in refusals[0].message
    assert run.spec.evaluate.rows == 7
    assert promotions.compare(alice, second.id).running == (run.id,)
    bench.settle()
    assert promotions.transition(alice, second.id, Stage.PRODUCTION).stage is Stage.PRODUCTION


def test_a_model_without_held_out_rows_of_its_own_is_measured_on_those_of_production(bench, promotions, trained, held_out, alice):
    promotions.transition(alice, trained().id, Stage.PRODUCTION)
    second = trained(validation_dataset=None)
    (run,) = evaluations(bench, alice)
    assert (run.model, run.dataset) == (second.id, held_out)


def test_where_no_rows_are_known_the_refusal_says_how_to_measure_it(bench, promotions, trained, alice):
    model = trained(validation_dataset=bench.dataset_id)  # the rows of its training
    with pytest.raises(EvaluationNeeded, match="proves memory") as refused:
        promotions.transition(alice, model.id, Stage.PRODUCTION)
    assert "job_id" not in refused.value.details
    assert evaluations(bench, alice) == []


class NoMoney:
    """Jobs of a team whose budget is used up."""

    def submit(self, *_) -> None:
        raise BudgetExceeded(Decimal(1), Decimal(0))


def test_a_comparison_that_cannot_be_queued_takes_no_model_away(bench, promotions, trained, alice):
    promotions.transition(alice, trained().id, Stage.PRODUCTION)
    bench._supervisor = bench.another(registry=Promotions(bench.models, NoMoney()))
    assert trained().version == "2"
    assert evaluations(bench, alice) == []
