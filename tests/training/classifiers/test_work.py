"""Whole attempts, in this process: what is left of each, and how it fails."""

import json
import re
import shutil

import numpy as np
import pytest

from luthier.modeling.classifiers.saving import load

from .conftest import images, jsonl, samples, shades, texts

HERE = {"deterministic": False}
"""A switch of the whole process, which is not this attempt's own here."""


@pytest.mark.parametrize("name", ["logistic-regression", "random-forest"])
@pytest.mark.parametrize("rows", [shades(90), texts(90)], ids=["images", "texts"])
def test_an_estimator_learns_and_loads_again(submitted, name, rows):
    job = submitted(rows=rows[:60], validation=rows[60:], classifier={"model": name})
    assert job.run_here() == 0
    assert job.status.state == "succeeded"
    told = json.loads(job.result("evaluation.json"))["tuned"]["metrics"]["accuracy"]
    held_out = samples(rows[60:])
    answers = load(job.final_model).probabilities(held_out.inputs)
    assert told == pytest.approx((answers.argmax(1) == held_out.labels).mean(), abs=1e-6)
    assert told > 0.9


def test_a_fit_made_twice_is_the_same(submitted):
    jobs = [submitted(rows=images(60), classifier={"model": "random-forest", "n_estimators": 30}) for _ in range(2)]
    assert [job.run_here() for job in jobs] == [0, 0]
    probes = samples(images(20, seed=5)).inputs
    one, other = (load(job.final_model).probabilities(probes) for job in jobs)
    np.testing.assert_array_equal(one, other)


def test_a_model_that_is_no_better_than_the_most_frequent_class_is_warned_about(submitted):
    draw = np.random.default_rng(0)
    rows = [{"image": draw.integers(0, 256, 64).tolist(), "label": int(at % 10 == 0)} for at in range(100)]
    job = submitted(
        rows=rows, validation=rows[:20], classifier={"model": "mlp"}, train={"max_steps": 1, "learning_rate": 1e-6, **HERE}
    )
    assert job.run_here() == 0
    assert job.status.state == "succeeded"
    assert any("no better than always giving the most frequent class" in said for said in job.said("warning"))


def test_a_checkpoint_of_another_model_ends_with_its_code(submitted):
    rows = shades(30)
    folder = submitted(rows=rows, classifier={"model": "mlp", "hidden_size": 4}, train={"max_steps": 3, **HERE})
    assert folder.run_here() == 0
    other = submitted(rows=rows, classifier={"model": "mlp", "hidden_size": 5}, train={"max_steps": 6, **HERE})
    shutil.copytree(folder.folder / "attempts", other.folder / "attempts")
    other.number = 1
    assert other.run_here() == 0
    assert (other.status.state, other.status.failure.code) == ("failed", "storage")
    assert "other weights than the model has" in other.status.failure.message


TWO = [{"image": [0, 0, 0, 0], "label": 1}, {"image": [9, 9, 9, 9], "label": 2}]


@pytest.mark.parametrize(
    ("details", "code", "words"),
    [
        ({"classifier": {"model": "resnet"}}, "bad_data", "Known are: logistic-regression, mlp, mnist-cnn, random-forest"),
        ({"classifier": {"model": "mlp", "depth": 3}}, "bad_data", "`classifier.depth`.*dropout, hidden_size, layers"),
        ({"classifier": {"model": "mlp"}, "rows": texts(9)}, "bad_data", "mlp learns from images"),
        ({"rows": [{"image": [0, 0, 0, 0], "label": 1}] * 9}, "bad_data", "1 class"),
        ({"data": jsonl(TWO).replace(b"9, 9]", b"9, NaN]")}, "bad_data", "Line 2"),
        ({"data": b"7,0,nan,0,0\n8,0,0,0,0\n"}, "bad_data", "Line 1.*0 to 255"),
        ({"rows": TWO, "validation": [{"image": [0] * 4, "label": 3}]}, "bad_data", "no training row"),
    ],
)
def test_what_cannot_be_done_fails_with_code_and_advice(submitted, details, code, words):
    job = submitted(**{"rows": TWO, "train": HERE, **details})
    assert job.run_here() == 0
    assert (job.status.state, job.status.failure.code) == ("failed", code)
    failure = job.status.failure
    assert re.search(words, f"{failure.message} {failure.hint}"), failure
