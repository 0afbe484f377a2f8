"""Ask the classifier in Production to which class something belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from pydantic import TypeAdapter
from starlette.types import Scope

from luthier.accounts.types import Actor
from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    BudgetExceeded,
    EngineUnavailable,
    FieldInvalid,
    ModelLoading,
    ModelNotAllowed,
    ModelOutputInvalid,
    NoModel,
    NotFound,
    QuotaExceeded,
    TooMany,
)
from luthier.faces.rest import access
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import MAX_BODY_BYTES, Json, StrictRoute, read_limited, shown_as, strict_json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.gathering import Gathering
from luthier.faces.rest.wire import router
from luthier.serving.predictions import Known, Predictions
from luthier.serving.types import Prediction, PredictRequest

R = TypeVar("R")

_MOST_INSIDE = 288
_THREADS = 32
"""So many classifiers are asked, or opened, at a time."""
_READ: TypeAdapter[PredictRequest] = TypeAdapter(Json[PredictRequest])


class Hall:
    """Where questions wait: a bounded number of them, and never in the threads that serve everything else. For one event loop."""

    def __init__(self, predictions: Predictions, *, most_inside: int = _MOST_INSIDE) -> None:
        self._predictions = predictions
        self._threads = ThreadPoolExecutor(_THREADS, "predicting")
        self._gathering = Gathering(predictions.ask, self._threads)
        self._most_inside = most_inside
        self.inside = 0

    async def answer(self, actor: Actor, request: PredictRequest, body: bytes | None = None, known: Known | None = None) -> bytes:
        """As JSON. `body` and `known`: the bytes in which it came, if any, and what a glance at them told.

        Raises: TooMany where too many wait already; what `Predictions` raises.
        """
        if self.inside >= self._most_inside:
            raise TooMany(f"{self.inside} predictions wait already.", retry_after_s=1)
        self.inside += 1
        try:
            return await self._answer(actor, request, body, known)
        finally:
            self.inside -= 1

    async def _answer(self, actor: Actor, request: PredictRequest, body: bytes | None, known: Known | None) -> bytes:
        predictions = self._predictions
        if known is not None:
            asking = predictions.asking(known, request)
        else:
            asking = await self._aside(partial(predictions.find, actor, request, body))
        if isinstance(asking, bytes):
            return asking
        found = await self._gathering.answer(asking.served, asking.question)
        if predictions.cache_is_near:
            return predictions.answered(asking, found)
        return await self._aside(partial(predictions.answered, asking, found))

    async def _aside(self, work: Callable[[], R]) -> R:
        """What may take long, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, work)


class Glanced(Request):
    """A request whose body was read, and what is known of it by its bytes alone."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        super().__init__(scope)
        self.actor: Actor = scope["luthier.actor"]
        self.bytes = body
        self.known = self.predictions.glance(self.actor, body)

    @property
    def predictions(self) -> Predictions:
        return self.app.state.platform.predictions


class PredictRoute(StrictRoute):
    """Read, looked up and answered on the event loop, by the rules of every route, and without what FastAPI does for any.

    What was asked before is answered from the cache, before its body is read as JSON: its bytes were found right then.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def answer(request: Request) -> Response:
            access.check(request, self.dependencies)
            self.check_form(request)
            glanced = Glanced(request.scope, await read_limited(request, MAX_BODY_BYTES))
            known = glanced.known
            if known is not None and known.kept is not None:
                return _json(glanced.predictions.again(known, known.kept, glanced.bytes))
            return await self.endpoint(_READ.validate_python(strict_json(glanced.bytes)), glanced)

        return answer


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")


routes = router("/api/predict", "predict", route=PredictRoute)

_EXAMPLES = {
    "an image": {"summary": "784 pixels, row by row, from 0 (black) to 1", "value": {"image": [0.0] * 783 + [1.0]}},
    "a text": {"summary": "A text, to a model of another name", "value": {"text": "The app crashes.", "model_name": "intents"}},
}
Asked = Annotated[Json[PredictRequest], shown_as(_EXAMPLES)]
REFUSALS = problems(
    NotFound,
    NoModel,
    FieldInvalid,
    ModelOutputInvalid,
    ModelNotAllowed,
    ArtifactCorrupt,
    TooMany,
    QuotaExceeded,
    BudgetExceeded,
    BaseUnavailable,
    EngineUnavailable,
    ModelLoading,
)


@routes.post("", dependencies=[ViewersToo], response_model=Prediction, responses=REFUSALS)
async def predict(asked: Asked, request: Glanced) -> Response:
    """The likeliest class of an image or a text, and how likely each class is. Only a version in Production answers."""
    hall: Hall = request.app.state.hall
    return _json(await hall.answer(request.actor, asked, request.bytes, request.known))


seed_routes = router("", "seed paths", route=PredictRoute)
seed_routes.post("/predict", dependencies=[ViewersToo], response_model=Prediction, responses=REFUSALS)(predict)
