"""Names, what they stand for, and their options."""

import sys
from importlib.metadata import PathDistribution

import pytest

from luthier.bases import classifiers
from luthier.errors import BaseUnavailable, FieldInvalid
from luthier.modeling.classifiers.estimators import ENTRIES as ESTIMATORS
from luthier.modeling.classifiers.extra import needs_sklearn
from luthier.modeling.classifiers.networks import ENTRIES as NETWORKS
from luthier.modeling.classifiers.registry import check_reads, entry_of, options_of
from luthier.modeling.classifiers.types import Shape, TorchEntry

PLUGIN = """
from torch import nn
from luthier.modeling.classifiers.types import TorchEntry

line = TorchEntry(lambda options, shape: nn.Linear(shape.pixels, shape.classes))
nothing = "no entry"
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package as an admin installs it."""
    (tmp_path / "acme_models.py").write_text(PLUGIN, "utf-8")
    info = tmp_path / "acme_models-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-models\nVersion: 2.1\n", "utf-8")
    lines = [
        "[luthier.classifiers]",
        "acme-line = acme_models:line",
        "acme-nothing = acme_models:nothing",
        "mlp = acme_models:line",
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield PathDistribution(info)
    sys.modules.pop("acme_models", None)


def test_the_names_that_are_known_without_torch_are_those_that_are_built():
    assert tuple(sorted({**NETWORKS, **ESTIMATORS})) == classifiers.BUILT_IN


@pytest.mark.parametrize("name", ["resnet", "", "../mlp", "os:system", "luthier.modeling.classifiers.networks:mlp", "MLP"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    with pytest.raises(FieldInvalid, match="no classifier") as refused:
        entry_of(name)
    assert refused.value.hint == "Known are: logistic-regression, mlp, mnist-cnn, random-forest."


def test_an_admin_adds_a_model_by_an_entry_point_but_replaces_none(plugin):
    entry = entry_of("acme-line")
    assert isinstance(entry, TorchEntry)
    assert entry.build(options_of(entry, {}), Shape("images", 9, 2)).weight.shape == (2, 9)
    source = classifiers.source_of("acme-line")
    assert (source.id, source.revision, source.url) == ("acme-line", "acme-models 2.1", "classifier:acme-line")
    assert entry_of("mlp") is NETWORKS["mlp"]
    with pytest.raises(FieldInvalid) as refused:
        entry_of("other")
    assert "acme-line" in refused.value.hint


def test_a_name_alone_loads_nothing_of_the_plugin(plugin):
    classifiers.source_of("acme-line")
    assert "acme_models" not in sys.modules


def test_an_entry_point_that_is_no_entry_is_an_error_of_the_package(plugin):
    with pytest.raises(TypeError, match="acme-nothing"):
        entry_of("acme-nothing")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("mnist-cnn", {"hidden": 3}, "`classifier.hidden`.*not permitted.*hidden_size"),
        ("mnist-cnn", {"hidden_size": 0}, "greater than or equal to 1"),
        ("mlp", {"hidden_size": 1.5}, "hidden_size"),
        ("mlp", {"hidden_size": "128"}, "integer"),
        ("random-forest", {"n_estimators": True}, "not true or false"),
    ],
)
def test_an_option_that_a_model_does_not_have_is_refused_with_those_it_has(name, given, words):
    with pytest.raises(FieldInvalid, match=words):
        options_of(entry_of(name), given)


def test_options_have_defaults():
    assert options_of(entry_of("mnist-cnn"), {}).model_dump() == {"hidden_size": 128}
    assert options_of(entry_of("mlp"), {"layers": 2.0}).model_dump() == {"hidden_size": 128, "layers": 2, "dropout": 0.0}


def test_a_network_for_images_refuses_texts():
    with pytest.raises(FieldInvalid, match="mnist-cnn learns from images, and the rows are labelled texts"):
        check_reads(entry_of("mnist-cnn"), "mnist-cnn", "labelled")
    check_reads(entry_of("random-forest"), "random-forest", "labelled")


def test_a_missing_extra_says_what_to_install():
    needs_sklearn()
    with pytest.raises(BaseUnavailable, match=r"luthier\[classifiers\]"):
        needs_sklearn(("sklearn", "no_such_package"))


@pytest.mark.parametrize(("name", "pixels"), [("mnist-cnn", 784), ("mnist-cnn", 16), ("mlp", 4)])
def test_a_network_answers_for_every_class(name, pixels):
    import torch

    entry = NETWORKS[name]
    module = entry.build(options_of(entry, {"hidden_size": 8}), Shape("images", pixels, 5))
    assert module(torch.zeros(3, pixels)).shape == (3, 5)


def test_the_network_of_mnist_has_the_parameters_that_its_layers_add_up_to():
    entry = NETWORKS["mnist-cnn"]
    module = entry.build(options_of(entry, {}), Shape("images", 784, 10))
    layers = (9 * 1 + 1) * 32, (9 * 32 + 1) * 64, (64 * 49 + 1) * 128, (128 + 1) * 10
    assert sum(weights.numel() for weights in module.parameters()) == sum(layers) == 421_642


def test_a_network_that_halves_twice_needs_four_by_four_pixels():
    with pytest.raises(FieldInvalid, match="4 x 4"):
        NETWORKS["mnist-cnn"].build(options_of(NETWORKS["mnist-cnn"], {}), Shape("images", 9, 2))
