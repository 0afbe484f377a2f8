"""What is saved loads again and answers the same; anything else is refused before it can do harm."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.errors import ArtifactCorrupt
from luthier.modeling.classifiers.registry import entry_of, options_of
from luthier.modeling.classifiers.saving import About, SklearnClassifier, TorchClassifier, load
from luthier.modeling.classifiers.skops_files import Untrusted, check
from luthier.modeling.classifiers.types import SklearnEntry

from .conftest import images, samples, texts

IMAGES, TEXTS = samples(images(30, side=8)), samples(texts(30))


def torch_model(folder, name="mlp", **options):
    entry = entry_of(name)
    about = About(model=name, options=options, reads="images", pixels=64, classes=IMAGES.classes)
    torch.manual_seed(3)
    classifier = TorchClassifier(about, entry.build(options_of(entry, options), about.shape))
    folder.mkdir()
    classifier.save(folder)
    return classifier


def sklearn_model(folder, name, data, **options):
    entry = entry_of(name)
    assert isinstance(entry, SklearnEntry)
    about = About(model=name, options=options, reads=data.reads, pixels=data.pixels, classes=data.classes)
    estimator = entry.build(options_of(entry, options), about.shape, 1)
    estimator.fit(data.inputs, data.labels)
    classifier = SklearnClassifier(about, estimator)
    folder.mkdir()
    classifier.save(folder)
    return classifier


def same(one, other, inputs) -> bool:
    return bool((one.probabilities(inputs) == other.probabilities(inputs)).all())


@pytest.mark.parametrize(("name", "options"), [("mlp", {"layers": 2, "hidden_size": 5}), ("mnist-cnn", {"hidden_size": 7})])
def test_a_network_loads_again_and_answers_the_same(tmp_path, name, options):
    saved = torch_model(tmp_path / "model", name, **options)
    found = load(tmp_path / "model")
    assert found.about == saved.about
    assert same(saved, found, IMAGES.inputs)
    np.testing.assert_allclose(found.probabilities(IMAGES.inputs).sum(1), 1)


@pytest.mark.parametrize("data", [IMAGES, TEXTS], ids=["images", "texts"])
@pytest.mark.parametrize("name", ["logistic-regression", "random-forest"])
def test_an_estimator_loads_again_and_answers_the_same(tmp_path, name, data):
    saved = sklearn_model(tmp_path / "model", name, data)
    found = load(tmp_path / "model")
    assert found.about == saved.about
    assert same(saved, found, data.inputs)


# -- PyTorch files that are not what they should be ---------------------------------------------------------------------


def broken_header(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def other_shape(path):
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file({**tensors, first: torch.zeros(1, 1)}, path)


def one_more(path):
    save_file({**load_file(path), "more": torch.zeros(1)}, path)


def other_type(path):
    save_file({name: tensor.double() for name, tensor in load_file(path).items()}, path)


def a_pickle(path):
    torch.save({"0.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("harm", [broken_header, cut, other_shape, one_more, other_type, a_pickle, lambda path: path.unlink()])
def test_weights_that_are_not_those_of_the_network_are_refused(tmp_path, harm):
    torch_model(tmp_path / "model")
    harm(tmp_path / "model" / "model.safetensors")
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet"},
        {"model": "../../mlp"},
        {"model": "os:system"},
        {"options": {"hidden": 3}},
        {"options": {"hidden_size": 10**9}},
        {"reads": "labelled"},
        {"pixels": 10**9},
        {"pixels": 81},
        {"classes": ["a"]},
        {"classes": ["a", "b"]},
        {"format": 2},
        {"code": "import os"},
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change):
    torch_model(tmp_path / "model", "mlp", hidden_size=3)
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactCorrupt):
        load(tmp_path / "model")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"{}" + b" " * (5 * 2**20)])
def test_a_description_that_cannot_be_read_is_refused(tmp_path, data):
    torch_model(tmp_path / "model")
    (tmp_path / "model" / "classifier.json").write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=r"classifier\.json"):
        load(tmp_path / "model")


# -- hostile skops files -----------------------------------------------------------------------------------------------


class Hostile:
    """Runs a command when a pickle of it is read."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def forest(tmp_path):
    sklearn_model(tmp_path / "model", "random-forest", IMAGES, n_estimators=3)
    return tmp_path / "model" / "model.skops"


def rewrite(path, change, arrays=lambda name, array: array):
    """The file with another schema, or other arrays."""
    with zipfile.ZipFile(path) as file:
        contents = {each.filename: file.read(each) for each in file.infolist()}
    schema = json.loads(contents.pop("schema.json"))
    change(schema)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", json.dumps(schema))
        for name, data in contents.items():
            target = io.BytesIO()
            np.save(target, arrays(name, np.load(io.BytesIO(data))))
            file.writestr(name, target.getvalue())


def nodes_of(schema, name):
    waiting, found = [schema], []
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            found += [item] if item.get("__class__") == name else []
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return found


def refused(path, words):
    with pytest.raises(ArtifactCorrupt, match=words):
        load(path.parent)


def test_the_file_as_it_was_saved_is_loaded_also_after_it_was_written_anew(forest):
    rewrite(forest, lambda schema: None)
    assert load(forest.parent).probabilities(IMAGES.inputs).shape == (30, 3)


def test_a_pickle_is_never_read(forest, tmp_path):
    forest.write_bytes(pickle.dumps(Hostile(tmp_path / "harm")))
    refused(forest, "no skops file")
    assert not (tmp_path / "harm").exists()


def test_a_pickled_array_inside_is_never_read(forest, tmp_path):
    data = io.BytesIO()
    np.save(data, np.array([Hostile(tmp_path / "harm")], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(forest) as file:
        contents = {each.filename: file.read(each) for each in file.infolist()}
    with zipfile.ZipFile(forest, "w") as file:
        for name, before in contents.items():
            file.writestr(name, before if name == "schema.json" else data.getvalue())
    refused(forest, "no skops file")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("module", "name", "loader"),
    [
        ("os", "system", "FunctionNode"),
        ("builtins", "eval", "TypeNode"),
        ("subprocess", "Popen", "ObjectNode"),
        ("operator", "methodcaller", "OperatorFuncNode"),
        ("builtins", "list", "ObjectNode"),
        ("sklearn.tree._tree", "Tree", "ReduceNode"),
        ("sklearn.tree._tree", "Tree", "ObjectNode"),
        ("sklearn.linear_model._logistic", "LogisticRegression", "ObjectNode"),
        ("sklearn.ensemble._forest", "RandomForestClassifier", "MethodNode"),
        (None, None, "ObjectNode"),
    ],
)
def test_a_type_that_the_model_does_not_consist_of_is_refused(forest, module, name, loader):
    def plant(schema):
        tree = nodes_of(schema, "Tree")[0]
        tree["content"]["more"] = {"__module__": module, "__class__": name, "__loader__": loader, "content": {}}

    rewrite(forest, plant)
    refused(forest, "a type in it")


def test_a_model_of_another_entry_is_refused(tmp_path):
    saved = sklearn_model(tmp_path / "linear", "logistic-regression", IMAGES)
    sklearn_model(tmp_path / "forest", "random-forest", IMAGES, n_estimators=2)
    shutil.copy(tmp_path / "forest" / "model.skops", tmp_path / "linear" / "model.skops")
    refused(tmp_path / "linear" / "model.skops", "a type in it")
    assert saved.about.model == "logistic-regression"


def test_two_objects_under_one_id_are_refused(forest):
    # skops would give the first one for both, and the one that was looked at would not be the one that is used.
    def plant(schema):
        arguments = nodes_of(schema, "Tree")[0]["__reduce__"]["args"]["content"]
        schema["content"]["content"]["verbose"] = {**arguments[2], "content": "1000000"}

    rewrite(forest, plant)
    refused(forest, "one id")


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_child", 10**6), ("right_child", -7), ("left_child", 0), ("feature", 64), ("feature", -5), ("right_child", -1)],
)
def test_a_tree_that_points_out_of_its_bounds_is_refused(forest, field, value):
    def bend(name, array):
        if array.dtype.names and field in array.dtype.names:
            array[field][0] = value
        return array

    rewrite(forest, lambda schema: None, bend)
    refused(forest, "out of its bounds")


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["content"]["content"]["node_count"].update(content="100000"),
        lambda tree: tree["__reduce__"]["args"]["content"][2].update(content="9"),
        lambda tree: tree["content"]["content"].update(values=tree["content"]["content"]["nodes"]),
        lambda tree: tree["content"]["content"].update(nodes=tree["content"]["content"]["values"]),
        lambda tree: tree["content"]["content"]["nodes"].update(type="json"),
        lambda tree: tree.pop("__reduce__"),
        lambda tree: tree["__reduce__"]["args"].update(content=[]),
    ],
)
def test_a_tree_that_lies_about_its_size_is_refused(forest, change):
    def lie(schema):
        for number, tree in enumerate(nodes_of(schema, "Tree")):
            change(tree)
            for place, node in enumerate(nodes_of(tree, "str") + nodes_of(tree, "ndarray")):
                node["__id__"] = 1_000_000 + number * 1000 + place

    rewrite(forest, lie)
    refused(forest, "not loaded")


def test_a_tree_for_wider_images_than_its_forest_is_refused(forest):
    def widen(schema):
        for number, tree in enumerate(nodes_of(schema, "Tree")):
            tree["__reduce__"]["args"]["content"][0].update(content="4096", __id__=1_000_000 + number)

    rewrite(forest, widen)
    refused(forest, "wider images|not what the registry")


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04broken"])
def test_what_is_no_archive_is_refused(forest, data):
    forest.write_bytes(data)
    refused(forest, "no skops file")


def test_an_archive_that_unpacks_to_too_much_is_refused(forest, monkeypatch):
    monkeypatch.setattr("luthier.modeling.classifiers.skops_files._MOST_BYTES", 1000)
    refused(forest, "unpacks to more")


def test_a_schema_that_nests_without_end_is_refused(forest):
    with zipfile.ZipFile(forest, "w") as file:
        file.writestr("schema.json", "[" * 100_000 + "]" * 100_000)
    refused(forest, "no skops file")


def test_an_estimator_of_other_classes_is_refused(tmp_path):
    sklearn_model(tmp_path / "model", "logistic-regression", IMAGES)
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["a", "b"]}))
    refused(path, "other classes")


def test_a_look_at_a_file_builds_nothing(forest):
    with pytest.raises(Untrusted):
        check(forest, frozenset())
