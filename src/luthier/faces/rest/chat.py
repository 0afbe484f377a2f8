"""Chat with a tuned model or a bare base, in the shapes of OpenAI's chat completions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import Body, Request, Response
from pydantic import BaseModel, Field

from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    BudgetExceeded,
    EngineUnavailable,
    FieldInvalid,
    Gone,
    LuthierError,
    ModelLoading,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    QuotaExceeded,
    RenderingDiffers,
)
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import facts_of, on_bug, problems, request_id
from luthier.faces.rest.streaming import Stream, close_in_thread, in_thread, until_hang_up
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving.types import ChatDelta, ChatRequest, FinishReason

routes = router("/api/chat", "chat")


class ChatBody(ChatRequest):
    """What to answer, and how."""

    stream: bool = Field(default=False, description="Server-sent events, a piece each, and `data: [DONE]` at the end.")


class Said(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Said
    finish_reason: FinishReason


class Usage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="The exact version that answered.")
    choices: list[Choice]
    usage: Usage


@dataclass(frozen=True)
class _Answering:
    """An answer under way: its first piece has come, so its model is there and works."""

    id: str
    created: int
    first: ChatDelta
    rest: Iterator[ChatDelta]


_EXAMPLES = {
    "one question": {
        "summary": "One question, answered whole",
        "value": {"model": "support-intents", "messages": [{"role": "user", "content": "The web app crashes when I open it."}]},
    },
    "piece by piece": {
        "summary": "Piece by piece, as short as one line",
        "value": {
            "model": "support-intents@3",
            "messages": [
                {"role": "system", "content": "Answer with JSON."},
                {"role": "user", "content": "The web app crashes when I open it."},
            ],
            "max_tokens": 64,
            "stream": True,
        },
    },
}
Asked = Annotated[Json[ChatBody], Body(openapi_examples=_EXAMPLES)]  # pyright: ignore[reportArgumentType]  # plain dicts
_SSE = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
_REFUSALS = problems(
    NotFound,
    Gone,
    ModelNotReady,
    ModelNotAllowed,
    FieldInvalid,
    ArtifactCorrupt,
    RenderingDiffers,
    QuotaExceeded,
    BudgetExceeded,
    BaseUnavailable,
    EngineUnavailable,
    ModelLoading,
)


@routes.post("", dependencies=[ViewersToo], response_model=Completion, responses={**_REFUSALS, **_SSE})
async def chat(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response | Completion:
    """Answer a conversation. A reader who hangs up ends it."""
    question = ChatRequest.model_validate(asked.model_dump(exclude={"stream"}))
    deltas = await anyio.to_thread.run_sync(platform.serving.chat, actor, question)
    first = await anyio.to_thread.run_sync(next, deltas)
    answering = _Answering(f"chatcmpl-{request_id(request)}", int(platform.now().timestamp()), first, deltas)
    if asked.stream:
        return Stream(_events(answering, request), media_type="text/event-stream")
    return await _whole(answering, request)


async def _events(answering: _Answering, request: Request) -> AsyncGenerator[bytes]:
    try:
        yield _chunk(answering, {"role": "assistant", "content": answering.first.text}, answering.first)
        async with aclosing(in_thread(answering.rest)) as deltas:
            async for delta in deltas:
                yield _chunk(answering, {"content": delta.text} if delta.text else {}, delta)
        yield b"data: [DONE]\n\n"
    except LuthierError as error:
        yield _sse({"error": facts_of(request, error)})
    except Exception as error:  # noqa: BLE001  # the edge of the process: the status line is long sent, the stream must tell
        yield b"data: " + bytes(on_bug(request, error).body) + b"\n\n"
    finally:
        # Also where the reader went before the second piece was asked for.
        await close_in_thread(answering.rest)


async def _whole(answering: _Answering, request: Request) -> Completion:
    said, last = [answering.first.text], answering.first
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_hang_up, request.receive, tasks.cancel_scope)
        try:
            async for delta in in_thread(answering.rest):
                said.append(delta.text)
                last = delta
        except Exception as error:  # noqa: BLE001  # carried out of the group, which would wrap it; raised unchanged below
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    usage = Usage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        total_tokens=last.prompt_tokens + last.completion_tokens,
    )
    choice = Choice(message=Said(content="".join(said)), finish_reason=last.finish_reason or "stop")
    return Completion(id=answering.id, created=answering.created, model=last.model, choices=[choice], usage=usage)


def _chunk(answering: _Answering, change: dict[str, str], delta: ChatDelta) -> bytes:
    chunk: dict[str, Any] = {
        "id": answering.id,
        "object": "chat.completion.chunk",
        "created": answering.created,
        "model": delta.model,
        "choices": [{"index": 0, "delta": change, "finish_reason": delta.finish_reason}],
    }
    if delta.finish_reason is not None:
        counts = (delta.prompt_tokens, delta.completion_tokens)
        chunk["usage"] = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
    return _sse(chunk)


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
