"""`POST /train`: flat fields, and the run that they mean. With a base it is LoRA, without one the MNIST classifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field, ValidationError

from luthier.datasets.sources import DIGITS, DIGITS_FILES, Import
from luthier.datasets.types import Dataset
from luthier.errors import FieldInvalid
from luthier.faces.rest.validation import refused
from luthier.jobs.spec import RunSpec
from luthier.values import Frozen, Name, Whole

EXPERIMENT, MODEL = "MNIST_Experiments", "MNISTClassifier"
_DEFAULTS: dict[str, Any] = {"learning_rate": 0.001, "epochs": 10, "batch_size": 64}
_HIDDEN = 128
_HELD_OUT = frozenset({"test", "t10k", "val", "valid", "validation", "eval", "evaluation", "heldout"})
"""Words in the name of a dataset that is there to be measured on."""

EXAMPLES = {
    "usual": {
        "summary": "A base, a dataset, and what is usually changed",
        "value": {
            "base_model": "luthier/tiny",
            "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2",
            "name": "support-intents",
            "epochs": 6,
            "learning_rate": 5e-4,
        },
    },
    "mnist": {
        "summary": "The MNIST classifier, on the newest labelled images or the built-in digits",
        "value": {"learning_rate": 0.001, "epochs": 10, "batch_size": 64, "hidden_size": 128},
    },
}


class TrainRequest(Frozen):
    """A run with flat fields. `POST /api/jobs` takes all that can be set."""

    base_model: str | None = Field(default=None, description="Without one, a classifier of images is trained from scratch.")
    dataset: str | None = Field(
        default=None,
        description="Of a classifier, the newest labelled images if it is left out; without any, `luthier/digits`.",
    )
    validation_dataset: str | None = None
    name: Name | None = Field(default=None, description=f"Of the model; a classifier is `{MODEL}` if it is left out.")
    hardware: str | None = None
    seed: Whole | None = None
    learning_rate: float | None = None
    epochs: Whole | None = None
    batch_size: Whole | None = None
    hidden_size: Whole | None = Field(default=None, description="Of a classifier; an adapter has none.")


def lora(wanted: TrainRequest) -> RunSpec:
    """The run of a request with a base. Raises: FieldInvalid."""
    if wanted.hidden_size is not None:
        hint = "Leave it out; the width of an adapter is `lora.rank` at `POST /api/jobs`."
        raise FieldInvalid("`hidden_size` is not a field of an adapter.", hint=hint, param="hidden_size")
    return _spec(wanted.model_dump(exclude_none=True))


class NoImages(FieldInvalid):
    """A classifier is wanted, and the team has nothing to learn it from."""

    def __init__(self) -> None:
        super().__init__(
            "There are no labelled images to learn from.",
            hint="Upload some (`POST /api/datasets`: a CSV of a label and 784 pixels, or MNIST's own files), or name a "
            "`dataset`. To fine-tune a language model, give `base_model` (see `GET /api/bases`).",
            param="dataset",
            code="missing",
        )


def digits(wanted: TrainRequest, datasets: Iterable[Dataset]) -> RunSpec:
    """The run of a request without a base. datasets: that which it names, or all of the caller's, newest first.

    Raises: FieldInvalid; NoImages where none are named and none are there.
    """
    given = {**_DEFAULTS, "name": MODEL, **wanted.model_dump(exclude_none=True)}
    training, held_out = training_and_held_out(each for each in datasets if is_images(each))
    if wanted.dataset is not None and training is None:
        raise FieldInvalid(
            "`base_model` is missing: without one the dataset is learned by a classifier of images, and it holds none.",
            hint="Give `base_model` (see `GET /api/bases`), or a dataset of labelled images that is ready.",
            param="base_model",
            code="missing",
        )
    if wanted.dataset is None:
        if training is None:
            raise NoImages
        given["dataset"] = training.id
        if held_out is not None:
            given.setdefault("validation_dataset", held_out.id)
    classifier = {"model": "mnist-cnn", "hidden_size": given.pop("hidden_size", _HIDDEN)}
    return _spec({**given, "method": "classifier", "classifier": classifier, "metadata": {"experiment": EXPERIMENT}})


def built_in() -> Iterator[Import]:
    """What is fetched for a team without images of its own: rows to learn from, then rows to measure on."""
    for name in DIGITS_FILES:
        yield Import(source=DIGITS, file=name)


def is_images(dataset: Dataset) -> bool:
    """Whether it can be trained on, and holds labelled images."""
    return dataset.state == "ready" and dataset.report is not None and dataset.report.schema_name == "images"


def training_and_held_out(newest_first: Iterable[Dataset]) -> tuple[Dataset | None, Dataset | None]:
    """What to learn from, and what to measure on: the newest of each, told apart by their names."""
    training: Dataset | None = None
    held_out: Dataset | None = None
    for dataset in newest_first:
        if not _is_held_out(dataset.name):
            training = training or dataset
        else:
            held_out = held_out or dataset
        if training and held_out:
            break
    return (training, held_out) if training else (held_out, None)


def _is_held_out(name: str) -> bool:
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return not _HELD_OUT.isdisjoint(words)


def _spec(given: dict[str, Any]) -> RunSpec:
    train = {name: given.pop(name) for name in ("learning_rate", "epochs", "batch_size") if name in given}
    try:
        return RunSpec.model_validate({**given, "train": train})
    except ValidationError as error:
        findings = error.errors(include_url=False, include_context=False, include_input=False)
        raise refused(findings, model=RunSpec) from None
