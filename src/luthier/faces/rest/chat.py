"""Chat with a tuned model or a bare base. The answer has the shape of OpenAI's chat completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import orjson
from fastapi import Body, Response
from pydantic import BaseModel, Field

from luthier import ids
from luthier.errors import BaseUnavailable, EngineUnavailable, FieldInvalid, Gone, ModelNotAllowed, NotFound, TooMany
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import Stream, in_thread
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving.types import ChatAnswer, ChatDelta, ChatRequest, FinishReason

routes = router("/api/chat", "chat")

# An answer takes seconds; a pool of its own keeps slow ones from holding up everybody's reads.
_AT_ONCE = anyio.CapacityLimiter(64)


class ChatBody(ChatRequest):
    """A question, and whether its answer is to come piece by piece."""

    stream: bool = Field(default=False, description="Send pieces as server-sent events, then `data: [DONE]`.")


class AnswerMessage(BaseModel):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One answer; there is always one."""

    index: int = 0
    message: AnswerMessage
    finish_reason: FinishReason


class Usage(BaseModel):
    """Tokens that went in and came out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds, as this shape has it.")
    model: str = Field(description="The exact version that answered.")
    choices: list[Choice]
    usage: Usage


_QUESTION = {
    "model": "support-intents",
    "messages": [{"role": "user", "content": "My invoice is wrong and I need it fixed today!"}],
    "max_tokens": 64,
}
Question = Annotated[Json[ChatBody], Body(openapi_examples={"ask": {"value": _QUESTION}})]
_SSE = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
_REFUSALS = problems(NotFound, Gone, ModelNotAllowed, FieldInvalid, TooMany, BaseUnavailable, EngineUnavailable)


@routes.post("", response_model=ChatCompletion, responses={**_REFUSALS, **_SSE})
async def chat(question: Question, actor: CurrentActor, platform: CurrentPlatform) -> ChatCompletion | Response:
    """Ask a model. With `stream` the answer comes as it is made; hanging up stops the model."""
    if not question.stream:
        return completion(await anyio.to_thread.run_sync(platform.serving.answer, actor, question, limiter=_AT_ONCE))
    deltas = await anyio.to_thread.run_sync(platform.serving.chat, actor, question, limiter=_AT_ONCE)
    return Stream(_chunks(deltas), media_type="text/event-stream")


def completion(answer: ChatAnswer) -> ChatCompletion:
    """An answer in OpenAI's shape."""
    usage = _usage(answer.prompt_tokens, answer.completion_tokens)
    choice = Choice(message=AnswerMessage(content=answer.text), finish_reason=answer.finish_reason)
    return ChatCompletion(id=ids.new("chat"), created=int(time.time()), model=answer.model, choices=[choice], usage=usage)


async def _chunks(deltas: Iterator[ChatDelta]) -> AsyncGenerator[bytes]:
    head = {"id": ids.new("chat"), "object": "chat.completion.chunk", "created": int(time.time())}
    role: dict[str, str] = {"role": "assistant"}
    async for delta in in_thread(deltas, _AT_ONCE):
        content = {**role, "content": delta.text} if delta.text or role else {}
        choice = {"index": 0, "delta": content, "finish_reason": delta.finish_reason}
        chunk: dict[str, Any] = {**head, "model": delta.model, "choices": [choice]}
        if delta.finish_reason is not None:
            chunk["usage"] = _usage(delta.prompt_tokens, delta.completion_tokens).model_dump()
        role = {}
        yield _event(chunk)
    yield b"data: [DONE]\n\n"


def _usage(prompt: int, made: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
