"""A client of the engine process on this machine, which it starts when it is first needed and when it has died."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from luthier.backends.engines.child import COMMAND, Child, Patience, start
from luthier.backends.engines.underway import Underway
from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    EngineUnavailable,
    FieldInvalid,
    LuthierError,
    ModelNotAllowed,
    NotFound,
    TooMany,
)
from luthier.seams import Classification, Classified, Generation, Likely, Piece, ServedClassifier, ServedModel

R = TypeVar("R")

_UNLOAD_S = 2.0
_BY_CODE: dict[str, type[LuthierError]] = {
    kind.code: kind for kind in (ArtifactCorrupt, BaseUnavailable, FieldInvalid, ModelNotAllowed, NotFound)
}


class EngineProcess:
    """Implements `seams.InferenceEngine`. Any thread may ask; one process serves them all.

    `folder` takes the socket and the log; `environment` is all that the process inherits.
    """

    def __init__(  # noqa: PLR0913  # how long it waits for what, each with a default
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        idle_s: float = 600,
        start_s: float = 60,
        wait_s: float = 60,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._folder = folder
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._command = (*command, "--idle-s", str(idle_s))
        self._start_s = start_s
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = threading.Event()
        self._state = "idle"
        self._underway = Underway(wait_s)

    def generate(self, model: ServedModel, request: Generation) -> Generator[Piece]:
        """Stream the answer. Closing the iterator stops the generation within a second.

        Raises: ModelLoading, EngineUnavailable, TooMany; ArtifactCorrupt for an adapter that cannot be used, BaseUnavailable and
        ModelNotAllowed for such a base, FieldInvalid for a prompt longer than the context.
        """
        for last_try in (False, True):
            child = self._ready()
            begun = False
            try:
                self._load(child, model)
                for piece in _answer(child, model, request):
                    begun = True
                    yield piece
                return
            except NotFound:
                # It gave way to other models between the two requests.
                child.loaded.discard(model)
                if last_try:
                    raise EngineUnavailable("Too many models are asked at once for this machine's memory.") from None
            except httpx.TransportError as error:
                if last_try or begun or not child.ended(wait_s=2):
                    raise EngineUnavailable(
                        "The engine process ended while it answered.", hint="Ask again: it is started anew by the next request."
                    ) from error

    def classify(self, model: ServedClassifier, questions: Sequence[Classification]) -> Sequence[Classified]:
        """Ask a classifier all of these in one request; once more where the process ended meanwhile: an answer changes nothing.

        Raises: ModelLoading, EngineUnavailable, TooMany; ArtifactCorrupt, BaseUnavailable, ModelNotAllowed; FieldInvalid.
        """

        folder = model.base_folder
        base = None if folder is None else ServedModel(str(folder), folder, None)
        return self._asked_again(base, lambda child: _classified(child, model, questions))

    def score(self, model: ServedModel, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """See `seams.InferenceEngine`. Raises: ModelLoading, EngineUnavailable, TooMany, BaseUnavailable, FieldInvalid."""
        body = {"model": model.id, "prompt": list(prompt_ids), "answers": [list(answer) for answer in answers]}

        def ask(child: Child) -> list[float]:
            response = child.client.post("/v1/score", json=body)
            _refuse(response)
            return response.json()["logprobs"]

        return self._asked_again(model, ask)

    def unload(self, folder: Path) -> None:
        """See `seams.InferenceEngine`. A process that is busy does it after the task at hand."""
        child = self._child
        if child is None or child.ended():
            return
        child.loaded -= {model for model in list(child.loaded) if model.adapter_folder == folder}
        with contextlib.suppress(httpx.HTTPError):
            child.client.post("/v1/unload_lora_adapter", json={"lora_path": str(folder)}, timeout=_UNLOAD_S)

    def _asked_again(self, loaded: ServedModel | None, ask: Callable[[Child], R]) -> R:
        """What changes nothing, and needs this loaded, is asked once more where the process ended or that gave way meanwhile."""
        for last_try in (False, True):
            child = self._ready()
            try:
                if loaded is not None:
                    self._load(child, loaded)
                return ask(child)
            except NotFound:
                if loaded is None:
                    raise
                child.loaded.discard(loaded)
                if last_try:
                    raise EngineUnavailable("Too many models are asked at once for this machine's memory.") from None
            except httpx.TransportError as error:
                if last_try or not child.ended(wait_s=2):
                    raise EngineUnavailable(
                        "The engine process ended while it answered.", hint="Ask again: it is started anew by the next request."
                    ) from error
        raise AssertionError("the last try returns or raises")

    def state(self) -> Mapping[str, Any]:
        """`{"state", "models", "pid"}`; `idle` also after it ended for lack of requests. Never waits for a start."""
        child, state = self._child, self._state
        if child is None or (state == "ready" and child.ended()):
            return {"state": "idle" if state == "ready" else state, "models": [], "pid": None}
        return {"state": state, "models": sorted(model.id for model in list(child.loaded)), "pid": child.pid}

    def close(self) -> None:
        """End the process, if there is one. The next `generate` raises EngineUnavailable."""
        self._closed.set()  # before the lock: whoever waits for a start gives up
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _load(self, child: Child, model: ServedModel) -> None:
        """See to it that the process was told to load this. Raises: ModelLoading; what the process refuses it with."""
        if model not in child.loaded:
            self._underway.done(model, partial(_load, child, model))

    def _ready(self) -> Child:
        """The process, answering; started if there is none. Raises: ModelLoading, EngineUnavailable."""
        child = self._child
        if child is None or child.ended() or self._closed.is_set():
            self._underway.done("start", self._start)
            child = self._child
        if child is None:
            raise EngineUnavailable("The engine was closed.", hint="Start the platform again.")
        return child

    def _start(self) -> None:
        with self._lock:
            if self._closed.is_set():
                raise EngineUnavailable("The engine was closed.", hint="Start the platform again.")
            if self._child is not None and not self._child.ended():
                return
            if self._child is not None:
                self._child.end()
            self._state, self._child = "starting", None
            try:
                child = start(self._folder, self._command, self._environment, Patience(self._start_s, self._closed))
            except EngineUnavailable:
                self._state = "failed"
                raise
            self._state, self._child = "ready", child


def _load(child: Child, model: ServedModel) -> None:
    adapter = None if model.adapter_folder is None else str(model.adapter_folder)
    body = {"lora_name": model.id, "lora_path": adapter, "base_path": str(model.base_folder)}
    response = child.client.post("/v1/load_lora_adapter", json=body)
    _refuse(response)
    child.loaded.add(model)


def _answer(child: Child, model: ServedModel, request: Generation) -> Generator[Piece]:
    body = {
        "model": model.id,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop_token_ids": list(request.stop_ids),
        "logprobs": request.logprobs,
        "guided_json": request.json_schema,
        "stream": True,
    }
    with child.client.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            response.read()
        _refuse(response)
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield _piece(json.loads(line.removeprefix("data: ")))


def _classified(child: Child, model: ServedClassifier, questions: Sequence[Classification]) -> list[Classified]:
    """The answers to questions to one classifier, in one request."""
    body = {
        "folder": str(model.folder),
        "base_path": None if model.base_folder is None else str(model.base_folder),
        "inputs": [{"image": each.image, "text": each.text, "prompt": each.prompt_ids} for each in questions],
    }
    response = child.quick.post("/v1/classify", orjson.dumps(body))
    _refuse(response)
    found = orjson.loads(response.content)
    classes = tuple(found["classes"])
    return [Classified(classes, tuple(math.nan if each is None else each for each in row)) for row in found["probabilities"]]


def _piece(event: dict[str, Any]) -> Piece:
    if "error" in event:
        raise _error(event["error"])
    choice = event["choices"][0]
    told = choice.get("logprobs") or ()
    likely = tuple(Likely(each["id"], each["logprob"], tuple((i, logp) for i, logp in each["top"])) for each in told)
    return Piece(tuple(choice["token_ids"]), choice["finish_reason"], likely)


def _refuse(response: httpx.Response) -> None:
    if not response.is_error:
        return
    details: dict[str, Any] = {}
    with contextlib.suppress(ValueError, KeyError):
        details = response.json()["error"]
    if response.status_code == 429:
        wait_s = int(response.headers.get("Retry-After", 2))
        raise TooMany(details.get("message", "The engine is busy."), retry_after_s=wait_s)
    raise _error(details)


def _error(details: dict[str, Any]) -> LuthierError:
    message = details.get("message") or "The engine answered with an error."
    if details.get("code") == NotFound.code:
        return NotFound("model")
    kind = _BY_CODE.get(str(details.get("code")), EngineUnavailable)
    return kind(message, hint=details.get("hint"), param=details.get("param"))
