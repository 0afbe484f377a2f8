"""The model of a classifier's job: its files, its card, its gate."""

import hashlib
import json

import pytest

from luthier import ids
from luthier.errors import ArtifactCorrupt, EvaluationNeeded
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.types import Finished, Stage
from luthier.values import BaseSource, Source

ABOUT = b'{"model": "mnist-cnn"}'
TORCH = {"classifier.json": ABOUT, "model.safetensors": b"weights"}
CHECKS = {"finite": True, "answers_differ": True, "loads_again": True, "same_after_reload": True}


def scores(accuracy: float, loss: float = 0.1) -> dict:
    side = {"loss": 2.3, "metrics": {"accuracy": 0.115, "macro_f1": 0.02}}
    tuned = {"loss": loss, "metrics": {"accuracy": accuracy, "macro_f1": accuracy}}
    return {"rows": 2000, "base": side, "tuned": tuned, "samples": [], "classes": ["0", "1"], "confusion": [[1, 0], [0, 1]]}


@pytest.fixture
def register(world, alice):
    def run(files=TORCH, evaluation=None, **spec):
        job_id = ids.new(ids.JOB)
        results = f"users/{alice.tenant_id}/jobs/{job_id}/attempts/1/results"
        left = {f"final_model/{name}": data for name, data in files.items()}
        left["metrics.json"] = json.dumps({"steps": 9, "validation_accuracy": 0.9}).encode()
        left["checks.json"] = json.dumps(CHECKS).encode()
        if evaluation is not None:
            left["evaluation.json"] = json.dumps(evaluation).encode()
        for name, data in left.items():
            world.storage.write(f"{results}/{name}", data)
        source = Source(id="ds_1", url="file:///x", sha256=hashlib.sha256(b"rows").hexdigest())
        base = BaseSource(id="mnist-cnn", revision="luthier 0.1.0", url="classifier:mnist-cnn")
        made = RunSpec.model_validate(
            {"method": "classifier", "dataset": "ds_1", "name": "MNISTClassifier", **spec},
        ).model_copy(update={"sources": Sources(dataset=source, base=base)})
        return world.registry.register(Finished(alice.tenant_id, alice.user_id, job_id, made, results))

    return run


def test_a_classifier_is_registered_with_its_card(register, world, alice):
    model = register(evaluation=scores(0.976), classifier={"hidden_size": 64})
    card = model.card
    assert (card.base_model, card.task, card.tags) == ("mnist-cnn", "classification", ("classifier", "mnist-cnn"))
    assert card.description == "mnist-cnn, a classifier trained on ds_1."
    assert (card.metrics["tuned_accuracy"], card.metrics["base_accuracy"], card.metrics["steps"]) == (0.976, 0.115, 9)
    assert card.lineage.base_revision == "luthier 0.1.0"
    assert card.warnings == ()
    assert [file.name for file in world.registry.files(alice, model.id)] == ["classifier.json", "model.safetensors"]
    config = json.loads(world.storage.read(f"users/{alice.tenant_id}/models/{model.id}/config.json"))
    assert (config["classifier"], config["base_model"], "lora" in config) == (
        {"model": "mnist-cnn", "hidden_size": 64},
        "mnist-cnn",
        False,
    )


def test_a_scikit_learn_model_is_registered_too(register):
    model = register({"classifier.json": ABOUT, "model.skops": b"zip"})
    assert model.bytes == len(ABOUT) + 3


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({}, "no classifier.json and no model.safetensors"),
        ({"classifier.json": ABOUT}, "no model.safetensors"),
        ({"model.skops": b"zip"}, "no classifier.json"),
        ({"classifier.json": ABOUT, "model.skops": b""}, "no model"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}, "no classifier.json"),
    ],
)
def test_results_without_a_whole_model_are_refused(register, files, lacks):
    with pytest.raises(ArtifactCorrupt, match=lacks):
        register(files)


def test_one_that_is_no_better_than_the_most_frequent_class_is_warned_about(register):
    (warning,) = register(evaluation=scores(0.115, loss=2.2)).card.warnings
    assert warning == "No better than always giving the most frequent class: accuracy 0.115 against 0.115 on 2000 held-out rows."
    (warning,) = register().card.warnings
    assert warning.startswith("Not measured on held-out rows")


def test_only_one_that_was_measured_and_is_no_worse_goes_to_production(register, world, alice):
    good, bad, unmeasured = register(evaluation=scores(0.9)), register(evaluation=scores(0.9, loss=2.4)), register()
    assert world.registry.transition(alice, good.id, Stage.PRODUCTION).stage == Stage.PRODUCTION
    for model in (bad, unmeasured):
        with pytest.raises(EvaluationNeeded):
            world.registry.transition(alice, model.id, Stage.PRODUCTION)


def test_the_index_is_made_anew_from_the_folders(register, world, alice):
    model = register(evaluation=scores(0.9))
    world.lose_the_database()
    assert world.registry.reindex() == 1
    assert world.registry.get(alice, model.id) == model
