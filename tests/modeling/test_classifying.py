"""What an engine process answers to `/v1/classify`: saved classifiers, as they were trained."""

import numpy as np
import pytest
from pydantic import ValidationError

from luthier.errors import ArtifactCorrupt, FieldInvalid
from luthier.modeling.classifiers.registry import entry_of, options_of
from luthier.modeling.classifiers.saving import About, SklearnClassifier, TorchClassifier
from luthier.modeling.classifiers.types import SklearnEntry
from luthier.modeling.classifying import ClassifyRequest, classify
from luthier.modeling.models import Bounds, Models


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A classifier of scikit-learn's digits, scaled to 28 x 28; its folder, and images that it has not seen."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8) / 16, np.ones((3, 3)))
    images = np.pad(large, ((0, 0), (2, 2), (2, 2))).reshape(len(large), 784).astype(np.float32)
    entry = entry_of("logistic-regression")
    assert isinstance(entry, SklearnEntry)
    about = About(
        model="logistic-regression", options={}, reads="images", pixels=784, classes=tuple(str(digit) for digit in range(10))
    )
    learned = entry.build(options_of(entry, {}), about.shape, 1).fit(images[:1200], labels[:1200])
    folder = tmp_path_factory.mktemp("digits")
    SklearnClassifier(about, learned).save(folder)
    return folder, images[1200:1300], labels[1200:1300]


def ask(models, folder, **given):
    found = classify(models, ClassifyRequest.model_validate({"folder": str(folder), "inputs": [given]}))
    return {**found, "probabilities": found["probabilities"][0]}


def test_a_trained_classifier_tells_digits_apart(digits):
    folder, images, labels = digits
    models = Models("cpu")
    found = [ask(models, folder, image=[float(pixel) for pixel in image]) for image in images]
    told = [int(answer["classes"][int(np.argmax(answer["probabilities"]))]) for answer in found]
    assert np.mean(np.array(told) == labels) > 0.9
    assert all(abs(sum(answer["probabilities"]) - 1) < 1e-6 for answer in found)


@pytest.mark.parametrize("given", [{}, {"text": "seven"}, {"image": [0.0] * 783}, {"prompt": [1]}])
def test_what_it_does_not_read_is_refused(digits, given):
    with pytest.raises(FieldInvalid, match="784 numbers"):
        ask(Models("cpu"), digits[0], **given)


def test_what_is_no_request_is_refused():
    with pytest.raises(ValidationError):
        ClassifyRequest.model_validate_json(b'{"folder": "x", "inputs": [{"image": [NaN]}]}')


def test_a_broken_classifier_is_said_to_be_one(tmp_path):
    with pytest.raises(ArtifactCorrupt, match=r"classifier\.json cannot be read"):
        ask(Models("cpu"), tmp_path, image=[0.0])


def network(folder, bias):
    import torch

    entry = entry_of("mlp")
    about = About(model="mlp", options={"hidden_size": 2}, reads="images", pixels=4, classes=("a", "b"))
    module = entry.build(options_of(entry, about.options), about.shape)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        list(module.parameters())[-1].copy_(torch.tensor([bias, 0.0]))
    folder.mkdir()
    TorchClassifier(about, module).save(folder)
    return folder


def test_each_of_many_answers_for_itself_and_the_oldest_leave(tmp_path):
    models = Models("cpu", Bounds(classifiers=2))
    folders = [network(tmp_path / str(number), float(number)) for number in range(4)]
    for folder, bias in [*zip(folders, range(4), strict=True), (folders[0], 0)]:
        (first, _) = ask(models, folder, image=[0.0] * 4)["probabilities"]
        assert first == pytest.approx(1 / (1 + np.exp(-bias)), abs=1e-6)
    assert len(models._classifiers) == 2


def test_what_is_no_number_is_told_as_none(tmp_path):
    found = ask(Models("cpu"), network(tmp_path / "nan", float("nan")), image=[0.0] * 4)
    assert found["probabilities"] == [None, None]
