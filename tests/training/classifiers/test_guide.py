"""The how-to says what is so: its models and options are those there are, and its examples work."""

import re
from pathlib import Path

import torch
import yaml

from luthier.jobs.spec import RunSpec
from luthier.modeling.classifiers.estimators import ENTRIES as ESTIMATORS
from luthier.modeling.classifiers.networks import ENTRIES as NETWORKS
from luthier.modeling.classifiers.registry import options_of
from luthier.modeling.classifiers.types import Shape
from luthier.training.classifiers.work import AUTO_LEARNING_RATE

GUIDE = (Path(__file__).parents[3] / "docs" / "how-to" / "train-a-classifier.md").read_text("utf-8")
ENTRIES = {**NETWORKS, **ESTIMATORS}


def shown(defaults: dict) -> str:
    return ", ".join(f"`{name}` {'none' if value is None else value or 0}" for name, value in defaults.items())


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)[number]


def test_the_table_has_every_model_with_its_options_and_their_defaults():
    lines = [line.strip("| ").split(" | ") for line in GUIDE.splitlines() if line.startswith("| `")][1:]
    told = {re.findall(r"`(.+?)`", cells[0])[0]: cells[2] for cells in lines}
    assert told == {name: shown(options_of(entry, {}).model_dump()) for name, entry in ENTRIES.items()}


def test_the_config_is_a_run():
    spec = RunSpec.model_validate(yaml.safe_load(block("yaml")))
    assert (spec.base_model, spec.classifier.options, spec.name) == ("mnist-cnn", {"hidden_size": 128}, "MNISTClassifier")


def test_the_model_of_an_admin_answers():
    made: dict = {}
    exec(block("python", 1), made)
    module = made["net"].build(options_of(made["net"], {"hidden_size": 3}), Shape("images", 9, 2))
    assert module(torch.zeros(1, 9)).shape == (1, 2)


def test_the_default_learning_rate_stands_there():
    assert f"`auto` for the\nlearning rate is {AUTO_LEARNING_RATE:g}" in GUIDE
