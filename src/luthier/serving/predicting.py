"""Decisions about questions to classifiers: what may be asked, what counts as an answer, and which questions are the same."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.errors import ArtifactCorrupt, FieldInvalid, ModelOutputInvalid
from luthier.registry.types import Model
from luthier.seams import Classified
from luthier.serving.types import DEFAULT_CLASSIFIER, Prediction, PredictRequest

_SUM_TOLERANCE = 1e-3


class About(BaseModel):
    """What counts here of a `classifier.json`."""

    model_config = ConfigDict(frozen=True)

    reads: Literal["images", "labelled"]
    pixels: int
    max_tokens: int | None = None

    @property
    def on_base(self) -> bool:
        """Whether it is an adapter and a head on a base model, which reads tokens."""
        return self.max_tokens is not None


def about_of(data: bytes) -> About:
    """Raises: ArtifactCorrupt."""
    try:
        return About.model_validate_json(data)
    except ValidationError:
        raise ArtifactCorrupt("The classifier cannot be used: classifier.json cannot be read.", hint="Train it again.") from None


def check_asked(request: PredictRequest) -> None:
    """Raises: FieldInvalid where there is not one input."""
    if request.image is None and request.text is None:
        raise FieldInvalid("Nothing is asked.", hint="Give `image` or `text`.", param="image", code="missing")
    if request.image is not None and request.text is not None:
        raise FieldInvalid("Two things are asked at once.", hint="Give `image` or `text`.", param="text")


def check_fits(request: PredictRequest, about: About) -> None:
    """Raises: FieldInvalid for what the model does not read."""
    if about.reads == "labelled":
        if request.text is None:
            raise FieldInvalid("This model reads texts.", hint="Give `text`.", param="image")
        return
    if request.image is None:
        raise FieldInvalid("This model reads images.", hint=f"Give `image`, {about.pixels} numbers.", param="text")
    if len(request.image) != about.pixels:
        raise FieldInvalid(
            f"`image` has {len(request.image)} numbers; expected {about.pixels}.",
            hint="One number from 0 to 1 for each pixel, row by row.",
            param="image",
        )


def side_of(about: About) -> int:
    """How many lines and columns its images have. Raises: FieldInvalid for a model that reads no images."""
    if about.reads == "labelled":
        raise FieldInvalid("This model reads texts.", hint="Ask it with `POST /predict` and `text`.", param="model_name")
    return math.isqrt(about.pixels)


def prediction_of(model: Model, found: Classified) -> Prediction:
    """The likeliest class, the first of equals. Raises: ModelOutputInvalid for what are no probabilities."""
    likely = found.probabilities
    if not all(math.isfinite(each) and each >= 0 for each in likely) or abs(math.fsum(likely) - 1) > _SUM_TOLERANCE:
        raise ModelOutputInvalid(
            f"The model {model.name}@{model.version} answered this with what are no probabilities.",
            hint="Ask something else, or move another version to Production.",
        )
    place = max(range(len(likely)), key=likely.__getitem__)
    return Prediction(
        prediction=class_of(found.classes[place]),
        confidence=likely[place],
        probabilities=likely,
        classes=found.classes,
        model_name=model.name,
        model_version=model.version,
        model_stage=model.stage,
    )


def class_of(label: str) -> int | str:
    """A class as it is told: a number where its name is one.

    >>> class_of("7"), class_of("-1"), class_of("007"), class_of("spam")
    (7, -1, '007', 'spam')
    """
    digits = label.removeprefix("-")
    whole = digits.isascii() and digits.isdigit() and len(digits) <= 15 and (digits == "0" or digits[0] != "0")
    return int(label) if whole and label != "-0" else label


def asked_in(request: PredictRequest) -> bytes:
    """A question as bytes: the same question, the same bytes."""
    return request.model_dump_json(include={"image", "text"}).encode()


def name_in(body: bytes) -> str | None:
    """The model that the body of a request names, where it can be told at a glance; nothing else of it is looked at."""
    if b"model_name" not in body and b"\\" not in body:
        return DEFAULT_CLASSIFIER
    try:
        name = orjson.loads(body)["model_name"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def cache_key(tenant_id: str, model_id: str, asked: bytes) -> str:
    """The same for the same question of a team to the same version; for all others another."""
    return f"{tenant_id}:{model_id}:{hashlib.sha256(asked).hexdigest()}"
