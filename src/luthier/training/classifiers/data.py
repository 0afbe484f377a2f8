"""Labelled rows as arrays: images from 0 to 1, or texts, and the class of each as a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from luthier.datasets.formats import BadRow, Labelled, read_rows
from luthier.modeling.classifiers.saving import Inputs, Matrix
from luthier.modeling.classifiers.types import Reads
from luthier.training.failures import AttemptFailed

Numbers: TypeAlias = NDArray[np.int64]
_EVERY = 200
_UNEQUAL = 10
"""Times as many rows as the rarest class has are worth a warning."""


@dataclass(frozen=True)
class Samples:
    """inputs: images, shape (N, pixels), or N texts. labels: places in `classes`, shape (N,)."""

    inputs: Inputs
    labels: Numbers
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reads(self) -> Reads:
        return "labelled" if isinstance(self.inputs, list) else "images"

    @property
    def pixels(self) -> int:
        return 0 if isinstance(self.inputs, list) else self.inputs.shape[1]

    def first(self, count: int) -> Inputs:
        return self.inputs[:count]


def read_samples(path: Path, on_progress: Callable[[float], None], like: Samples | None = None) -> Samples:
    """All rows of a file; with `like`, as further rows of those. Raises: AttemptFailed (`bad_data`)."""
    images: list[Matrix] = []
    texts: list[str] = []
    labels: list[str] = []
    brightest = 0.0
    for row in _rows(path, on_progress):
        labels.append(row.label)
        if row.pixels is None:
            texts.append(cast(str, row.text))
            continue
        if images and len(row.pixels) != len(images[0]):
            said = f"Line {row.line}: the image has {len(row.pixels)} pixels, the first one {len(images[0])}."
            raise AttemptFailed("bad_data", said, "Give all images the same size.")
        brightest = max(brightest, *row.pixels)
        images.append(np.array(row.pixels, np.float32))
    inputs = np.stack(images) if images else texts
    if not isinstance(inputs, list) and brightest > 1:
        inputs /= np.float32(255)  # written from 0 to 255
    samples = _samples(inputs, labels, like)
    if like is not None and (samples.reads, samples.pixels) != (like.reads, like.pixels):
        raise AttemptFailed("bad_data", "The validation rows are of another kind or size.", "Give rows like the training rows.")
    return samples


def classes_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels; in the order of numbers where all are whole numbers.

    >>> classes_of(["10", "9", "9"]), classes_of(["b", "a", "9"])
    (('9', '10'), ('9', 'a', 'b'))
    """
    found = set(labels)
    whole = all(label.isascii() and label.removeprefix("-").isdigit() for label in found)
    return tuple(sorted(found, key=_in_numbers) if whole else sorted(found))


def _in_numbers(label: str) -> tuple[int, str]:
    return int(label), label


def check_classes(labels: Sequence[str], classes: Sequence[str]) -> None:
    """Raises: AttemptFailed (`bad_data`) for training rows that cannot teach to tell classes apart."""
    if len(classes) < 2:
        said = f"The rows have {len(classes)} class: there is nothing to tell apart." if classes else "The file holds no rows."
        raise AttemptFailed("bad_data", said, "Give rows of at least two classes.")
    if len(classes) == len(labels) > 2:
        said = f"Each of the {len(labels)} rows has a class of its own: there is nothing that rows of a class have in common."
        raise AttemptFailed("bad_data", said, "Is `label` the name of a class? Give several rows of each.")


def numbers_of(labels: Sequence[str], classes: Sequence[str]) -> Numbers:
    """The place of each label in `classes`. Raises: AttemptFailed (`bad_data`) for no labels, and for one that is unknown."""
    places = {name: place for place, name in enumerate(classes)}
    unknown = next((label for label in labels if label not in places), None)
    if unknown is not None or not labels:
        said = "The validation rows have a label that no training row has." if labels else "The validation file holds no rows."
        raise AttemptFailed("bad_data", said, "Split training and validation rows so that both have every class.")
    return np.array([places[label] for label in labels], np.int64)


def remarks_on(training: Numbers, validation: Numbers | None, classes: int) -> list[str]:
    """What is odd about how often the classes occur. training, validation: the place of each row's class.

    >>> remarks_on(np.array([0, 0, 1]), np.array([0, 0]), 2)
    ['1 of 2 classes has no validation row: nothing is measured of it.']
    """
    found: list[str] = []
    if validation is not None:
        absent = classes - len(np.unique(validation))
        if absent:
            said = f"{absent} of {classes} classes {'has' if absent == 1 else 'have'} no validation row"
            found.append(f"{said}: nothing is measured of {'it' if absent == 1 else 'them'}.")
    counts = np.bincount(training, minlength=classes)
    most, least = int(counts.max()), int(counts.min())
    if most >= _UNEQUAL * max(1, least):
        said = f"The most frequent class has {most} rows, the rarest {least}: rare classes are learned badly, and accuracy"
        found.append(f"{said} hides it. Look at macro-F1, or give more rows of the rare ones.")
    return found


def _samples(inputs: Inputs, labels: Sequence[str], like: Samples | None) -> Samples:
    classes = like.classes if like else classes_of(labels)
    if like is None:
        check_classes(labels, classes)
    return Samples(inputs, numbers_of(labels, classes), classes)


def _rows(path: Path, on_progress: Callable[[float], None]) -> Iterator[Labelled]:
    size = max(1, path.stat().st_size)
    with path.open("rb") as stream:
        try:
            for number, row in enumerate(read_rows(stream, Labelled)):
                if number % _EVERY == 0:
                    on_progress(min(1.0, stream.tell() / size))
                yield row
        except BadRow as bad:
            where = f"Line {bad.line}: " if bad.line is not None else ""
            raise AttemptFailed("bad_data", f"{where}{bad.message} ({bad.code})", bad.hint) from None
