"""Questions to one classifier, as an engine process answers them: all in one pass.

```text
POST /v1/classify   {"folder", "base_path" or null, "inputs": [one of {"image": [0 to 1]}, {"text"}, {"prompt": [ids]}, ...]}
                    {"classes": [...], "probabilities": [[...], ...]}, a row for each; what is no finite number is null
```
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from luthier.errors import ArtifactCorrupt, FieldInvalid
from luthier.modeling.classifiers.saving import About, Inputs
from luthier.modeling.models import Models


class Question(BaseModel):
    """One input."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    image: list[float] | None = None
    text: str | None = None
    prompt: list[int] | None = Field(default=None, min_length=1, max_length=4_194_304)


class ClassifyRequest(BaseModel):
    """A saved classifier and what it is asked. A folder's files never change."""

    model_config = ConfigDict(strict=True)

    folder: str
    base_path: str | None = None
    inputs: list[Question] = Field(min_length=1, max_length=1024)


def classify(models: Models, asked: ClassifyRequest) -> dict[str, Any]:
    """How likely each class is. Raises: FieldInvalid, ArtifactCorrupt, BaseUnavailable, ModelNotAllowed."""
    folder = Path(asked.folder)
    if asked.base_path is None:
        alone = models.classifier(folder)
        with one_thread():
            about, found = alone.about, alone.probabilities(_inputs(alone.about, asked.inputs))
    else:
        held = models.classifier_on(Path(asked.base_path), folder)
        about, found = held.about, held.logits(_prompts(asked.inputs)).double().softmax(-1).numpy()
    if found.shape != (len(asked.inputs), len(about.classes)):
        raise ArtifactCorrupt("The classifier gives another number of answers than it has classes.", hint="Train it again.")
    rows = found.tolist()
    return {"classes": about.classes, "probabilities": [[each if math.isfinite(each) else None for each in row] for row in rows]}


@contextmanager
def one_thread() -> Generator[None]:
    """A few images through a small network: threads that wait for each other take the cores from those who ask."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prompts(asked: Sequence[Question]) -> list[list[int]]:
    prompts = [each.prompt for each in asked if each.prompt is not None]
    if len(prompts) < len(asked):
        raise _wrong("prompt", "tokens of a text")
    return prompts


def _inputs(about: About, asked: Sequence[Question]) -> Inputs:
    if about.reads == "labelled":
        texts = [each.text for each in asked if each.text is not None]
        if len(texts) < len(asked):
            raise _wrong("text", "texts")
        return texts
    images = [each.image for each in asked if each.image is not None and len(each.image) == about.pixels]
    if len(images) < len(asked):
        raise _wrong("image", f"{about.pixels} numbers")
    return np.array(images, np.float32)


def _wrong(param: str, wanted: str) -> FieldInvalid:
    return FieldInvalid(f"This classifier reads {wanted}.", param=param)
