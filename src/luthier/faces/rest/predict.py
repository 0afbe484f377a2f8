"""Ask the classifier in Production to which class something belongs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body

from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    EngineUnavailable,
    FieldInvalid,
    ModelNotAllowed,
    ModelOutputInvalid,
    NoModel,
    NotFound,
    TooMany,
)
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving.types import Prediction, PredictRequest

routes = router("/api/predict", "predict")

_EXAMPLES = {
    "an image": {"summary": "784 pixels, row by row, from 0 (black) to 1", "value": {"image": [0.0] * 783 + [1.0]}},
    "a text": {"summary": "A text, to a model of another name", "value": {"text": "The app crashes.", "model_name": "intents"}},
}
Asked = Annotated[Json[PredictRequest], Body(openapi_examples=_EXAMPLES)]  # pyright: ignore[reportArgumentType]  # plain dicts
REFUSALS = problems(
    NotFound,
    NoModel,
    FieldInvalid,
    ModelOutputInvalid,
    ModelNotAllowed,
    ArtifactCorrupt,
    TooMany,
    BaseUnavailable,
    EngineUnavailable,
)


@routes.post("", dependencies=[ViewersToo], responses=REFUSALS)
def predict(asked: Asked, actor: CurrentActor, platform: CurrentPlatform) -> Prediction:
    """The likeliest class of an image or a text, and how likely each class is. Only a version in Production answers."""
    return platform.predictions.predict(actor, asked)
