"""Real trainer processes on job directories of classifiers, driven as a supervisor drives them."""

import hashlib
import json
import os
import signal
import time

import numpy as np
import pytest
import yaml

from luthier.jobs.spec import RunSpec
from luthier.modeling.classifiers.saving import load

from .conftest import SHAPES, images, samples

pytestmark = pytest.mark.slow

TRAINING, VALIDATION = images(300), images(60, seed=1)
CNN = {"epochs": 20, "learning_rate": 0.002, "batch_size": 16, "save_steps": 10}


def model_sha256(job) -> str:
    return hashlib.sha256((job.final_model / "model.safetensors").read_bytes()).hexdigest()


def until(condition, process) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the trainer has ended"
        assert time.monotonic() < end
        time.sleep(0.01)  # another process works here: there is nothing to step forward but real time


@pytest.fixture(scope="module")
def uninterrupted(submitted):
    """A network on 300 images, never disturbed."""
    job = submitted(rows=TRAINING, validation=VALIDATION, train=CNN)
    assert job.run() == 0, job.log
    return job


def test_a_network_learns_shapes_and_leaves_all_that_the_contract_names(uninterrupted):
    job = uninterrupted
    assert job.status.state == "succeeded", job.log
    results = {name.split("results/")[1] for name in job.job.storage.names("attempts/1/results")}
    assert results == {
        "config.yaml",
        "checks.json",
        "metrics.json",
        "evaluation.json",
        "final_model/classifier.json",
        "final_model/model.safetensors",
    }
    assert len(job.losses()) == job.status.step == job.status.total_steps == 20 * 19
    assert not (job.folder / "attempts" / "1" / "work").exists()
    evaluation = json.loads(job.result("evaluation.json"))
    assert evaluation["tuned"]["metrics"]["accuracy"] > 0.9 > evaluation["base"]["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert (evaluation["classes"], np.sum(evaluation["confusion"])) == (list(SHAPES), 60)
    checks = json.loads(job.result("checks.json"))
    assert (checks["finite"], checks["answers_differ"], checks["loads_again"], checks["same_after_reload"]) == (True,) * 4
    metrics = json.loads(job.result("metrics.json"))
    assert metrics["validation_accuracy"] == evaluation["tuned"]["metrics"]["accuracy"]
    assert (metrics["steps"], metrics["epochs"]) == (380, 20)


def test_what_was_left_answers_as_its_evaluation_says(uninterrupted):
    rows = samples(VALIDATION)
    answers = load(uninterrupted.final_model).probabilities(rows.inputs)
    told = json.loads(uninterrupted.result("evaluation.json"))["tuned"]
    assert (answers.argmax(1) == rows.labels).mean() == pytest.approx(told["metrics"]["accuracy"])
    assert -np.log(answers[np.arange(60), rows.labels]).mean() == pytest.approx(told["loss"])


def test_the_resolved_config_is_a_spec_that_makes_the_same_model(uninterrupted, submitted):
    config = yaml.safe_load(uninterrupted.result("config.yaml"))
    assert RunSpec.model_validate(config).classifier.options == {"hidden_size": 128}
    again = submitted(rows=TRAINING, validation=VALIDATION, train=config["train"], classifier=config["classifier"])
    assert again.run() == 0, again.log
    assert model_sha256(again) == model_sha256(uninterrupted)


def test_a_run_that_was_killed_and_resumed_is_the_uninterrupted_one_bit_by_bit(submitted, uninterrupted):
    job = submitted(rows=TRAINING, validation=VALIDATION, train=CNN)
    for step in (20, 150):
        process = job.start()
        until(lambda step=step: (newest := job.job.newest_checkpoint()) and newest.step >= step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    assert job.run() == 0, job.log
    assert job.status.resumed_from.step >= 150
    assert job.losses() == uninterrupted.losses()
    assert model_sha256(job) == model_sha256(uninterrupted)
    assert json.loads(job.result("evaluation.json")) == json.loads(uninterrupted.result("evaluation.json"))


def test_a_stop_saves_and_can_be_resumed(submitted):
    job = submitted(rows=images(60), train={"max_steps": 100_000, "batch_size": 4, "save_steps": 100_000})
    process = job.start()
    until(lambda: job.status is not None and job.status.step >= 3, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, job.log
    assert job.status.state == "preempted"
    assert job.job.newest_checkpoint().step == job.status.step
