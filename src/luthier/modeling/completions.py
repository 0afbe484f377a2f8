"""OpenAI's completions on token ids, and classes: what an engine process answers.

```text
GET  /health                 {"status": "ok", "busy": 0}
GET  /v1/models              {"object": "list", "data": [{"id", "object": "model", "parent"}]}
POST /v1/load_lora_adapter   {"lora_name", "lora_path" or null for the bare base, "base_path"}
POST /v1/unload_lora_adapter {"lora_path"}: whatever was loaded from there
POST /v1/completions         {"model", "prompt": [ids], "max_tokens", ..., "stream"}; each choice has `token_ids`
POST /v1/classify            see `classifying.py`
POST /v1/score               see `scoring.py`
```
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from luthier.errors import Conflict, FieldInvalid, Invalid, LuthierError, NotFound, TooMany
from luthier.modeling.classifying import ClassifyRequest, classify
from luthier.modeling.generate import Token
from luthier.modeling.models import Models
from luthier.modeling.scoring import ScoreRequest, score
from luthier.modeling.turns import Ask, Do, Event, Turns
from luthier.modeling.types import Sampling

_LOOK_S = 0.2
"""How often a waiting answer looks whether its client is still there."""
_STATUS = ((TooMany, 429), (NotFound, 404), (Conflict, 409), (Invalid, 400))


class CompletionRequest(BaseModel):
    """The part of OpenAI's request that this engine reads; other fields are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    prompt: list[int] = Field(min_length=1, max_length=4_194_304)
    max_tokens: int = Field(default=16, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None
    stop_token_ids: list[int] = []
    stream: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    guided_json: str | None = None

    @property
    def sampling(self) -> Sampling:
        stop_ids, told = frozenset(self.stop_token_ids), self.logprobs is not None
        return Sampling(self.max_tokens, self.temperature, self.top_p, self.seed, stop_ids, told, self.logprobs or 0)


class LoadRequest(BaseModel):
    """vLLM's request, with the base besides: one engine holds several."""

    model_config = ConfigDict(strict=True)

    lora_name: Annotated[str, Field(min_length=1, max_length=256)]
    lora_path: str | None = None
    base_path: str


class UnloadRequest(BaseModel):
    """By the folder that it came from: classifiers have no name here."""

    model_config = ConfigDict(strict=True)

    lora_path: str


class Engine:
    """The routes, and when somebody last asked for something."""

    def __init__(self, models: Models, turns: Turns) -> None:
        self._models = models
        self._turns = turns
        self._asked_at = time.monotonic()
        self._collected = False

    @property
    def idle_s(self) -> float:
        """Since the last request; 0 while one is worked on."""
        if self._turns.busy:
            self._asked_at = time.monotonic()
        return time.monotonic() - self._asked_at

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/score", self.score, methods=["POST"]),
                Route("/v1/classify", self.classify, methods=["POST"]),
            ],
            exception_handlers={LuthierError: _error_response, ValidationError: _validation_response},
        )

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "busy": self._turns.busy})

    async def models(self, _request: Request) -> Response:
        data = [{"id": name, "object": "model", "parent": base} for name, base in self._models.listing]
        return JSONResponse({"object": "list", "data": data})

    async def load(self, request: Request) -> Response:
        self._asked_at = time.monotonic()
        asked = LoadRequest.model_validate_json(await request.body())
        adapter = None if asked.lora_path is None else Path(asked.lora_path)
        await self._done(lambda models: models.load(asked.lora_name, Path(asked.base_path), adapter))
        return JSONResponse({"status": "ok"})

    async def unload(self, request: Request) -> Response:
        asked = UnloadRequest.model_validate_json(await request.body())
        await self._done(lambda models: models.unload(Path(asked.lora_path)))
        return JSONResponse({"status": "ok"})

    async def classify(self, request: Request) -> Response:
        self._asked_at = time.monotonic()
        asked = ClassifyRequest.model_validate_json(await request.body())
        found: list[dict[str, Any]] = []
        await self._done(lambda models: found.append(classify(models, asked)))
        return Response(orjson.dumps(found[0]), media_type="application/json")

    async def score(self, request: Request) -> Response:
        self._asked_at = time.monotonic()
        asked = ScoreRequest.model_validate_json(await request.body())
        found: list[float] = []
        await self._done(lambda models: found.extend(score(models, asked)))
        return JSONResponse({"logprobs": found})

    async def _done(self, work: Callable[[Models], None]) -> None:
        """Wait until the computing thread did it. Raises: what it raised."""
        events, tell = _mailbox()
        self._turns.submit(Do(work, tell))
        done = await events.get()
        if not self._collected:
            # What the first model imported is looked through now: otherwise some seconds later, and all who ask then wait.
            self._collected = True
            gc.collect()
        if isinstance(done, LuthierError):
            raise done

    async def complete(self, request: Request) -> Response:
        self._asked_at = time.monotonic()
        asked = CompletionRequest.model_validate_json(await request.body())
        events, tell = _mailbox()
        ask = Ask(asked.model, tuple(asked.prompt), asked.sampling, tell, asked.guided_json)
        self._turns.submit(ask)
        tokens = _tokens(request, events, ask.left)
        # The first token before the status line: what is wrong with a request is not told in a 200.
        first = await anext(tokens, None)
        if asked.stream:
            return StreamingResponse(_sse(asked, first, tokens), media_type="text/event-stream")
        taken = [first, *[token async for token in tokens]] if first else []
        return JSONResponse(_whole(asked, taken))


def _mailbox() -> tuple[asyncio.Queue[Event], Callable[[Event], None]]:
    """A queue in this loop, and how another thread puts something into it."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return events, tell


async def _tokens(request: Request, events: asyncio.Queue[Event], left: threading.Event) -> AsyncGenerator[Token]:
    """The answer as it comes; ends when the client is gone, and then nobody computes it any further."""
    looked_at = time.monotonic()
    try:
        while True:
            event = await _next_event(events)
            if isinstance(event, LuthierError):
                raise event
            if event is not None:
                yield event
                if event.finish_reason is not None:
                    return
            if time.monotonic() - looked_at > _LOOK_S:
                looked_at = time.monotonic()
                if await request.is_disconnected():
                    return
    finally:
        left.set()


async def _next_event(events: asyncio.Queue[Event]) -> Event:
    try:
        return await asyncio.wait_for(events.get(), _LOOK_S)
    except TimeoutError:
        return None


async def _sse(asked: CompletionRequest, first: Token | None, rest: AsyncGenerator[Token]) -> AsyncGenerator[str]:
    head = _head(asked)
    try:
        if first is not None:
            yield _chunk(head, first)
        async for token in rest:
            yield _chunk(head, token)
    except LuthierError as error:  # too late for a status
        yield f"data: {json.dumps(_error_body(error))}\n\n"
    finally:
        await rest.aclose()
    yield "data: [DONE]\n\n"


def _chunk(head: dict[str, Any], token: Token) -> str:
    return f"data: {json.dumps({**head, 'choices': [_choice([token])]})}\n\n"


def _whole(asked: CompletionRequest, tokens: list[Token]) -> dict[str, Any]:
    choice = _choice(tokens)
    counts = len(asked.prompt), len(choice["token_ids"])
    usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
    return {**_head(asked), "choices": [choice], "usage": usage}


def _head(asked: CompletionRequest) -> dict[str, Any]:
    # Wall-clock seconds, as OpenAI's shape has them; nothing here is decided by them.
    return {"id": f"cmpl-{time.time_ns():x}", "object": "text_completion", "created": int(time.time()), "model": asked.model}


def _choice(tokens: list[Token]) -> dict[str, Any]:
    # No text: whoever sent token ids has the tokenizer.
    ids = [token.id for token in tokens if token.id is not None]
    finish = tokens[-1].finish_reason if tokens else None
    told = [
        {"id": each.id, "logprob": each.logp, "top": each.top} for each in tokens if each.id is not None and each.logp is not None
    ]
    return {"index": 0, "text": "", "token_ids": ids, "logprobs": told or None, "finish_reason": finish}


def _error_body(error: LuthierError) -> dict[str, Any]:
    return {"error": {"message": error.message, "code": error.error_code, "param": error.param, "hint": error.hint}}


async def _error_response(_request: Request, error: Exception) -> Response:
    if not isinstance(error, LuthierError):
        raise error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TooMany) else {}
    return JSONResponse(_error_body(error), status, headers)


async def _validation_response(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ValidationError):
        raise error
    where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "body"
    wrong = FieldInvalid(f"`{where}`: {error.errors()[0]['msg']}.", param=where)
    return JSONResponse(_error_body(wrong), 400)
