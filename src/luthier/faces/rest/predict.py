"""Ask the classifier in Production to which class something belongs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Body, Request, Response
from starlette.types import Scope

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
from luthier.faces.rest.body import MAX_BODY_BYTES, Json, StrictRoute, read_limited
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving.types import Prediction, PredictRequest

R = TypeVar("R")

_AT_A_TIME = 32
"""Threads that wait for the engine; it answers all that wait in one batch."""
_MOST_WAITING = 256


class PredictRoute(StrictRoute):
    """What was asked before is answered from the cache, before its body is read as JSON: its bytes were found right then."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            access.check(request, self.dependencies)
            self.check_form(request)
            actor, predictions = request.scope["luthier.actor"], request.app.state.platform.predictions
            request = _Read(request.scope, await read_limited(request, MAX_BODY_BYTES))
            body = await request.body()
            kept = predictions.kept(actor, body) if predictions.cache_is_near else None
            return await handle(request) if kept is None else Response(kept, media_type="application/json")

        return answer


class _Read(Request):
    """A request whose body was read."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        super().__init__(scope)
        self._body = body

    async def stream(self) -> AsyncGenerator[bytes]:
        yield self._body


class Hall:
    """Where predictions wait for the engine: a bounded number of them, and never in the threads that serve everything else."""

    def __init__(self, at_a_time: int = _AT_A_TIME, most_waiting: int = _MOST_WAITING) -> None:
        self._pool = ThreadPoolExecutor(at_a_time, "predicting")
        self._most = at_a_time + most_waiting
        self._at_a_time = at_a_time
        self._inside = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many have no thread yet."""
        return max(0, self._inside - self._at_a_time)

    async def run(self, work: Callable[[], R]) -> R:
        """What `work` returns. Called on the event loop alone. Raises: TooMany where too many wait already."""
        if self._inside >= self._most:
            raise TooMany(f"{self.waiting} predictions wait already.", retry_after_s=1)
        with self._lock:  # against the threads that leave
            self._inside += 1
        future = self._pool.submit(copy_context().run, work)
        future.add_done_callback(self._left)
        return await asyncio.wrap_future(future)

    def _left(self, _: object) -> None:
        with self._lock:
            self._inside -= 1


routes = router("/api/predict", "predict", route=PredictRoute)

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
    QuotaExceeded,
    BudgetExceeded,
    BaseUnavailable,
    EngineUnavailable,
    ModelLoading,
)


@routes.post("", dependencies=[ViewersToo], response_model=Prediction, responses=REFUSALS)
async def predict(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """The likeliest class of an image or a text, and how likely each class is. Only a version in Production answers."""
    body = await request.body()
    found = await request.app.state.hall.run(partial(platform.predictions.predict, actor, asked, body))
    return Response(found.model_dump_json(), media_type="application/json")


seed_routes = router("", "seed paths", route=PredictRoute)
seed_routes.post("/predict", dependencies=[ViewersToo], response_model=Prediction, responses=REFUSALS)(predict)
