"""Texts on a base: a LoRA and a head of classes learn as the loop learns, and transformers and peft load what comes out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.training.conftest import save_small_llama
from tests.training.test_gang_process import together, widest_gap
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from luthier.datasets.formats import Labelled
from luthier.datasets.packing import PassLimits
from luthier.datasets.rendering import Renderer
from luthier.errors import ArtifactCorrupt
from luthier.jobs.spec import RunSpec
from luthier.modeling.classes import new_head
from luthier.modeling.classifiers import saving
from luthier.modeling.engines import open_engine
from luthier.modeling.load import load_base
from luthier.modeling.types import LoraShape
from luthier.training.classifiers import texts
from luthier.training.classifiers.data import classes_of
from luthier.training.failures import AttemptFailed
from luthier.training.method import Step
from luthier.training.methods.classification import Classification
from luthier.training.tokenising import rows_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SAID = {
    "billing": ("my invoice {} is too high", "you charged me {} times"),
    "bug": ("the app crashed again in build {}", "number {} does nothing"),
    "thanks": ("you are great, {} thanks", "that helped a lot, {}"),
}


def lines(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": patterns[number % 2].format(number), "label": label}
        for number in range(start, start + count)
        for label, patterns in SAID.items()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("base") / "1"
    save_small_llama(made)
    return made


@pytest.fixture
def renderer(folder) -> Renderer:
    return Renderer.load(folder)


def method_on(renderer: Renderer, rows: list[tuple[str, str]], max_seq_len: int = 64) -> Classification:
    read = rows_of("classifier", [Labelled(label, text=text) for text, label in rows], renderer, max_seq_len)
    classes = classes_of(read.beside)
    return Classification(read.rows, read.beside, classes, new_head(len(classes), 64, seed=3))


# -- the method --------------------------------------------------------------------------------------------------------

TEXTS = [("good morning", "hello"), ("where are you going to", "question"), ("hi", "hello"), ("what is it", "question")]


def test_texts_are_tokens_as_the_bases_own_tokenizer_has_them(folder, renderer):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    method = method_on(renderer, TEXTS, max_seq_len=3)
    for number, (text, _) in enumerate(TEXTS):
        row = method.rows[number]
        assert list(row.ids) == tokenizer(text, truncation=True, max_length=3).input_ids
        assert list(row.loss_at) == [len(row.ids) - 1]
    assert method.rows.truncated == sum(len(tokenizer(text).input_ids) > 3 for text, _ in TEXTS)


@pytest.mark.parametrize("prefer", ["fast", "plain"])
def test_loss_and_gradients_are_those_of_transformers_and_peft(folder, renderer, prefer):
    shape = LoraShape(rank=4, alpha=8)
    engine, method = open_engine(load_base(folder, "cpu", "fp32"), shape, 0, prefer), method_on(renderer, TEXTS)
    assert list(method.measured_on(None)) == []
    share = 0.0
    for batch in method.batches(engine, Step(range(4)), PassLimits(rows=3, tokens=1000)):  # two passes, one step
        leaf = engine.hidden(batch.packed, training=True).requires_grad_()
        loss = batch.loss(leaf)
        loss.backward()
        engine.backward(leaf.grad)
        share += loss.item()

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=0)
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0)
    theirs = get_peft_model(model, config)
    with torch.no_grad():
        weights = {name.replace(".default", ""): weight for name, weight in theirs.named_parameters() if weight.requires_grad}
        for name, weight in engine.parameters.items():
            weights[f"base_model.model.{name}"].copy_(weight)
        weights["base_model.model.score.modules_to_save.weight"].copy_(method.head)
    encoded = AutoTokenizer.from_pretrained(folder)([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    expected = theirs(**encoded, labels=torch.tensor(method.places)).loss
    expected.backward()
    assert share == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in engine.parameters.items():
        assert torch.allclose(weight.grad, weights[f"base_model.model.{name}"].grad, atol=1e-5, rtol=1e-3), name
    assert torch.allclose(method.head.grad, weights["base_model.model.score.modules_to_save.weight"].grad, atol=1e-5, rtol=1e-3)
    assert method.metrics().keys() == {"accuracy"}


def test_validation_rows_are_judged_by_the_head_that_learns(folder, renderer):
    engine, method = open_engine(load_base(folder, "cpu", "fp32"), LoraShape(2, 4), 0), method_on(renderer, TEXTS)
    held_out = method_on(renderer, [("what now", "question"), ("good evening", "hello")])
    assert list(method.measured_on(held_out)) == []
    assert held_out.head is method.head
    loss = held_out.validation_loss(engine, PassLimits(8, 100), lambda _: None)
    with torch.no_grad():
        method.head.mul_(0)
    assert held_out.validation_loss(engine, PassLimits(8, 100), lambda _: None) == pytest.approx(np.log(2))
    assert loss != pytest.approx(np.log(2), abs=1e-6)
    assert held_out.metrics() == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3, abs=1e-6)}


@pytest.mark.parametrize(
    ("rows", "held_out", "said"),
    [
        ([("a", "x"), ("b", "x")], None, "The rows have 1 class"),
        ([("a", "x"), ("b", "y"), ("c", "z")], None, "Each of the 3 rows has a class of its own"),
        ([("a", "x"), ("b", "y")], [("c", "z")], "a label that no training row has"),
    ],
)
def test_rows_that_teach_no_classes_are_refused(renderer, rows, held_out, said):
    validation = method_on(renderer, held_out) if held_out else None
    with pytest.raises(AttemptFailed, match=said) as refused:
        method_on(renderer, rows).measured_on(validation)
    assert refused.value.failure.code == "bad_data"


def test_what_is_odd_about_the_classes_is_told(renderer):
    rows = [("a", "x")] * 20 + [("b", "y"), ("c", "z"), ("d", "z")]
    told = list(method_on(renderer, rows).measured_on(method_on(renderer, [("a", "x"), ("b", "y")])))
    assert told[0] == "1 of 3 classes has no validation row: nothing is measured of it."
    assert told[1].startswith("The most frequent class has 20 rows, the rarest 1:")


# -- whole runs --------------------------------------------------------------------------------------------------------

TRAIN = {"epochs": 6, "learning_rate": 0.005, "batch_size": 8, "save_steps": 5}


def a_job(submitted, **details: Any):
    more = {"method": "classifier", "lora": {"rank": 4, "alpha": 8}, **details.pop("more", {})}
    return submitted(train={**TRAIN, **details.pop("train", {})}, lines=lines(12), more=more, **details)


def final_model(job) -> Path:
    return job.folder / "attempts" / str(job.number) / "results" / "final_model"


def sha256(job) -> str:
    return hashlib.sha256((final_model(job) / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(submitted):
    job = a_job(submitted, validate=True)
    assert job.run() == 0, job.log
    assert job.status.state == "succeeded", job.status.message
    return job


def test_a_run_learns_to_tell_classes_apart_and_says_how_well(done):
    evaluation, checks = json.loads(done.result("evaluation.json")), json.loads(done.result("checks.json"))
    assert evaluation["classes"] == ["billing", "bug", "thanks"]
    assert evaluation["tuned"]["metrics"]["accuracy"] > 0.9 > evaluation["untrained"]["metrics"]["accuracy"]
    assert evaluation["base"]["metrics"]["accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    assert evaluation["per_class"]["bug"].keys() == {"rows", "precision", "recall", "f1"}
    assert {name for name, passed in checks.items() if passed is True} == {
        "finite",
        "changes_logits",
        "loads_again",
        "same_after_reload",
    }
    metrics = json.loads(done.result("metrics.json"))
    assert metrics["validation_accuracy"] == evaluation["tuned"]["metrics"]["accuracy"]
    assert metrics["train_loss"] < 0.5 < done.losses()[0][1]


def test_transformers_and_peft_load_the_model_and_name_the_same_classes(done, bases, folder):
    model = final_model(done)
    config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    assert config.id2label == {0: "billing", 1: "bug", 2: "thanks"}
    base = AutoModelForSequenceClassification.from_pretrained(bases / "luthier--tiny" / "1", config=config)
    theirs = PeftModel.from_pretrained(base, model).eval()
    asked = [row["text"] for row in lines(4, start=90)]
    with torch.no_grad():
        logits = theirs(**tokenizer(asked, padding=True, return_tensors="pt")).logits
    ours = texts.load(model, load_base(folder, "cpu", "fp32"), Renderer.load(folder))
    found = ours.probabilities(asked)
    assert np.allclose(found, logits.double().softmax(-1).numpy(), atol=1e-4)
    named = [ours.about.classes[place] for place in found.argmax(1)]
    assert named == [config.id2label[int(place)] for place in logits.argmax(-1)]
    assert sum(name == row["label"] for name, row in zip(named, lines(4, start=90), strict=True)) >= 11


def test_the_guide_shows_how(done, bases):
    guide = Path(__file__).parents[2] / "docs" / "how-to" / "train-a-classifier.md"
    shown = guide.read_text("utf-8").split("```python\n")[1].split("```")[0]
    shown = shown.replace("final_model", str(final_model(done))).replace("the/base", str(bases / "luthier--tiny" / "1"))
    made: dict[str, Any] = {}
    exec(shown, made)
    assert made["classes"] == ["billing", "bug"]


def test_a_killed_run_goes_on_as_if_nothing_had_been(submitted, wait_until, done):
    job = a_job(submitted, validate=True)
    process = job.start()
    try:
        wait_until(lambda: job.job.newest_checkpoint() is not None, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        assert job.run() == 0, job.log
    finally:
        process.kill()
    assert job.number == 2
    assert job.losses() == done.losses()
    assert sha256(job) == sha256(done)


def test_beside_a_language_model_it_learns_what_it_learns_alone(submitted, done):
    classifier, chat = a_job(submitted, validate=True), submitted(train={"max_steps": 12, "batch_size": 4})
    alone = submitted(train={"max_steps": 12, "batch_size": 4})
    assert alone.run() == 0
    assert together([classifier, chat]) == 0
    assert [job.status.state for job in (classifier, chat)] == ["succeeded", "succeeded"]
    assert widest_gap([classifier, chat], [done, alone]) <= 1e-4


def test_a_fit_test_measures_it_and_trains_nothing(submitted):
    job = a_job(submitted, more={"kind": "fit_test"})
    assert job.run() == 0, job.log
    found = json.loads(job.result("fit_test.json"))
    assert found["fits"]
    assert found["units"] == 8


# -- hostile and broken models -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(done, tmp_path) -> Path:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in final_model(done).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda model: change(model / "classifier.json", classes=["a", "b"]), "another shape"),
        (lambda model: change(model / "classifier.json", classes=["a"]), "cannot be read"),
        (lambda model: change(model / "adapter_config.json", task_type="CAUSAL_LM"), "no head of classes"),
        (lambda model: (model / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "no safetensors file"),
        (lambda model: (model / "classifier.json").unlink(), "cannot be read"),
    ],
)
def test_a_model_that_is_not_what_it_says_is_refused(saved, folder, renderer, spoil, said):
    spoil(saved)
    with pytest.raises(ArtifactCorrupt, match=said):
        texts.load(saved, load_base(folder, "cpu", "fp32"), renderer)


def test_weights_that_are_no_numbers_are_refused(saved, folder, renderer):
    tensors = load_file(saved / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"][0, 0] = float("nan")
    save_file(tensors, saved / "adapter_model.safetensors")
    with pytest.raises(ArtifactCorrupt, match="not numbers"):
        texts.load(saved, load_base(folder, "cpu", "fp32"), renderer)


def test_models_of_both_kinds_say_how_they_are_loaded(saved, folder, renderer, tmp_path):
    with pytest.raises(ArtifactCorrupt, match="stands on a base model"):
        saving.load(saved)
    change(saved / "classifier.json", max_tokens=None, model="mnist-cnn")
    with pytest.raises(ArtifactCorrupt, match="does not stand on a base model"):
        texts.load(saved, load_base(folder, "cpu", "fp32"), renderer)


# -- the spec ----------------------------------------------------------------------------------------------------------


def test_a_base_makes_it_an_adapter_and_no_base_a_model_from_scratch():
    assert RunSpec(method="classifier", base_model="luthier/tiny", dataset="d").has_base
    assert not RunSpec(method="classifier", dataset="d").has_base
    assert not RunSpec.model_validate({"method": "classifier", "classifier": {"model": "mlp"}, "dataset": "d"}).has_base
    with pytest.raises(ValueError, match="leave out `base_model`"):
        RunSpec.model_validate({"method": "classifier", "classifier": {}, "base_model": "luthier/tiny", "dataset": "d"})
