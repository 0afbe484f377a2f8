"""One question to a classifier, as an engine process answers it.

```text
POST /v1/classify   {"folder", "base_path" or null, and one of "image": [0 to 1], "text", "prompt": [ids]}
                    {"classes": [...], "probabilities": [...]}; what is no finite number is null
```
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from luthier.errors import ArtifactCorrupt, FieldInvalid
from luthier.modeling.classifiers.saving import About, Inputs
from luthier.modeling.models import Models


class ClassifyRequest(BaseModel):
    """A saved classifier and one input. A folder's files never change."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    folder: str
    base_path: str | None = None
    image: list[float] | None = None
    text: str | None = None
    prompt: list[int] | None = Field(default=None, min_length=1, max_length=4_194_304)


def classify(models: Models, asked: ClassifyRequest) -> dict[str, Any]:
    """How likely each class is. Raises: FieldInvalid, ArtifactCorrupt, BaseUnavailable, ModelNotAllowed."""
    folder = Path(asked.folder).resolve()
    if asked.base_path is None:
        alone = models.classifier(folder)
        about, found = alone.about, alone.probabilities(_inputs(alone.about, asked))[0]
    else:
        held = models.classifier_on(Path(asked.base_path), folder)
        if asked.prompt is None:
            raise _wrong("prompt", "tokens of a text")
        about, found = held.about, held.logits([asked.prompt]).double().softmax(-1).numpy()[0]
    likely = [float(each) for each in found]
    if len(likely) != len(about.classes):
        raise ArtifactCorrupt("The classifier gives another number of answers than it has classes.", hint="Train it again.")
    return {"classes": list(about.classes), "probabilities": [each if math.isfinite(each) else None for each in likely]}


def _inputs(about: About, asked: ClassifyRequest) -> Inputs:
    if about.reads == "labelled":
        if asked.text is None:
            raise _wrong("text", "a text")
        return [asked.text]
    if asked.image is None or len(asked.image) != about.pixels:
        raise _wrong("image", f"{about.pixels} numbers")
    return np.array([asked.image], np.float32)


def _wrong(param: str, wanted: str) -> FieldInvalid:
    return FieldInvalid(f"This classifier reads {wanted}.", param=param)
