"""Asking a model, in the shapes that chat clients know."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Body, Response
from pydantic import Field

from luthier import ids
from luthier.errors import BaseUnavailable, EngineUnavailable, FieldInvalid, Gone, ModelNotAllowed, NotFound, TooMany
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import Stream, in_thread
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving.types import ChatDelta, ChatRequest
from luthier.values import Frozen

routes = router("/api/chat", "chat")


class Question(ChatRequest):
    """A chat request; `stream` asks for the answer piece by piece."""

    stream: bool = False


class Said(Frozen):
    """The answer as a message."""

    role: str = "assistant"
    content: str


class Choice(Frozen):
    """One answer."""

    index: int = 0
    message: Said
    finish_reason: str


class Usage(Frozen):
    """Tokens of question and answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Frozen):
    """A whole answer."""

    id: str
    object: str = "chat.completion"
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="The exact version that answered.")
    choices: tuple[Choice, ...]
    usage: Usage


_EXAMPLE = {"ask": {"value": {"model": "support-intents", "messages": [{"role": "user", "content": "I cannot log in."}]}}}
Asked = Annotated[Json[Question], Body(openapi_examples=_EXAMPLE)]  # pyright: ignore[reportArgumentType]  # plain dicts


@routes.post(
    "",
    response_model=Completion,
    responses=problems(NotFound, Gone, ModelNotAllowed, FieldInvalid, BaseUnavailable, EngineUnavailable, TooMany),
)
async def chat(asked: Asked, actor: CurrentActor, platform: CurrentPlatform) -> Response | Completion:
    """Answer a conversation. With `stream` it comes as server-sent events that end with `[DONE]`."""
    request = ChatRequest.model_construct(**{name: getattr(asked, name) for name in ChatRequest.model_fields})
    if not asked.stream:
        answer = await anyio.to_thread.run_sync(platform.serving.answer, actor, request)
        counts = (answer.prompt_tokens, answer.completion_tokens)
        choice = Choice(message=Said(content=answer.text), finish_reason=answer.finish_reason)
        return Completion(id=_id(), created=int(time.time()), model=answer.model, choices=(choice,), usage=_usage(*counts))
    deltas = await anyio.to_thread.run_sync(platform.serving.chat, actor, request)
    return Stream(_chunks(deltas), media_type="text/event-stream")


async def _chunks(deltas: Iterator[ChatDelta]) -> AsyncGenerator[bytes]:
    head: dict[str, Any] = {"id": _id(), "object": "chat.completion.chunk", "created": int(time.time())}
    async for delta in in_thread(deltas):
        choice = {"index": 0, "delta": {"role": "assistant", "content": delta.text}, "finish_reason": delta.finish_reason}
        chunk = {**head, "model": delta.model, "choices": [choice]}
        if delta.finish_reason is not None:
            chunk["usage"] = _usage(delta.prompt_tokens, delta.completion_tokens).model_dump()
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _id() -> str:
    return ids.new("chat")
