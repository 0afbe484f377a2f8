"""`/v1/chat/completions`: answers of bases and tuned models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import Request, Response
from pydantic import BaseModel, Field

from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    EngineUnavailable,
    FieldInvalid,
    Gone,
    LuthierError,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    RenderingDiffers,
    TooMany,
)
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.chat import Usage
from luthier.faces.rest.errors import facts_of, on_bug, request_id
from luthier.faces.rest.openai.chat_requests import ChatCreate
from luthier.faces.rest.openai.routes import refusals, router
from luthier.faces.rest.streaming import Stream, close_in_thread, in_thread, until_hang_up
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.serving.tool_calls import calls_in
from luthier.serving.types import ChatDelta, TokenLikelihood

routes = router("chat (OpenAI)")

_REFUSALS = refusals(
    *(NotFound, Gone, ModelNotReady, ModelNotAllowed, FieldInvalid, ArtifactCorrupt, RenderingDiffers),
    *(BaseUnavailable, EngineUnavailable, TooMany),
)
_SSE = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


class Function(BaseModel):
    name: str
    arguments: str


class Call(BaseModel):
    """A tool that the model wants called."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class Said(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[Call] | None = Field(default=None, exclude_if=lambda calls: calls is None)


class Choice(BaseModel):
    index: int
    message: Said
    logprobs: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Completion(BaseModel):
    """Whole answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="As it was asked for.")
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None = Field(default=None, description="The exact version that answered.")


@dataclass
class _Answer:
    """One of the answers, as far as it has come."""

    index: int
    deltas: Iterator[ChatDelta]
    first: ChatDelta
    text: list[str] = field(default_factory=list[str])
    likely: list[TokenLikelihood] = field(default_factory=list[TokenLikelihood])
    last: ChatDelta | None = None

    def take(self, delta: ChatDelta) -> None:
        self.text.append(delta.text)
        self.likely += delta.likely
        self.last = delta


_QUESTION = {"role": "user", "content": "Where is my order?"}
Asked = Annotated[Json[ChatCreate], such_as(model="luthier/tiny", messages=[_QUESTION], max_tokens=64)]


@routes.post("/chat/completions", response_model=Completion, responses={**_REFUSALS, **_SSE}, dependencies=[ViewersToo])
async def create(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response | Completion:
    """Answer a conversation. A reader who hangs up ends it."""
    answers: list[_Answer] = []
    async with AsyncExitStack() as begun:
        for number in range(asked.answers):
            deltas = await anyio.to_thread.run_sync(platform.serving.chat, actor, asked.question(number))
            begun.push_async_callback(close_in_thread, deltas)
            answers.append(_Answer(number, deltas, await anyio.to_thread.run_sync(next, deltas)))
        begun.pop_all()  # all have begun: from here on whoever reads them closes them
    head = {"id": f"chatcmpl-{request_id(request)}", "created": int(platform.now().timestamp()), "model": asked.model}
    if asked.stream:
        return Stream(_events(asked, head, answers, request), media_type="text/event-stream")
    return await _whole(asked, head, answers, request)


async def _whole(asked: ChatCreate, head: dict[str, Any], answers: list[_Answer], request: Request) -> Completion:
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_hang_up, request.receive, tasks.cancel_scope)
        async with aclosing(_merged(answers)) as coming:
            async for answer, delta in coming:
                if isinstance(delta, Exception):
                    failed = delta
                    break
                answer.take(delta)
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    choices = [_choice(asked, answer, head) for answer in answers]
    usage = Usage.model_validate(_usage(answers))
    return Completion(**head, choices=choices, usage=usage, system_fingerprint=answers[0].first.model)


async def _merged(answers: list[_Answer]) -> AsyncGenerator[tuple[_Answer, ChatDelta | Exception]]:
    """The pieces of all answers, as they come; an error is the last."""
    # Tasks of asyncio's own: a task group of anyio must not be left from inside a generator.
    coming: asyncio.Queue[tuple[_Answer, ChatDelta | Exception | None]] = asyncio.Queue(len(answers))

    async def pump(answer: _Answer) -> None:
        try:
            await coming.put((answer, answer.first))
            async with aclosing(in_thread(answer.deltas)) as deltas:
                async for delta in deltas:
                    await coming.put((answer, delta))
            await coming.put((answer, None))
        except Exception as error:  # noqa: BLE001  # carried to the reader, who raises it or tells it
            await coming.put((answer, error))

    pumps = [asyncio.create_task(pump(answer)) for answer in answers]
    going = len(pumps)
    try:
        while going:
            answer, piece = await coming.get()
            if piece is None:
                going -= 1
                continue
            yield answer, piece
            if isinstance(piece, Exception):
                return
    finally:
        for each in pumps:
            each.cancel()


async def _events(asked: ChatCreate, head: dict[str, Any], answers: list[_Answer], request: Request) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(_merged(answers)) as coming:
            async for answer, delta in coming:
                if isinstance(delta, Exception):
                    yield _failed(delta, request)
                    return
                begun = answer.last is not None
                answer.take(delta)
                if not asked.tools or delta.finish_reason is not None:
                    yield _sse(_chunk(asked, head, answer, delta, begun=begun))
        if asked.usage_in_stream:
            yield _sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(answers)})
        yield b"data: [DONE]\n\n"
    finally:
        for answer in answers:  # also where the reader went before the first piece was asked for
            await close_in_thread(answer.deltas)


def _chunk(asked: ChatCreate, head: dict[str, Any], answer: _Answer, delta: ChatDelta, *, begun: bool) -> dict[str, Any]:
    """A piece. With tools the answer comes as one: only at its end is it known what of it is a call."""
    change: dict[str, Any] = {} if begun and not asked.tools else {"role": "assistant", "content": ""}
    finish: str | None = delta.finish_reason
    if asked.tools:
        choice = _choice(asked, answer, head)
        change["content"] = choice.message.content
        finish = choice.finish_reason
        if choice.message.tool_calls:
            change["tool_calls"] = [{"index": n, **call.model_dump()} for n, call in enumerate(choice.message.tool_calls)]
    elif delta.text:
        change["content"] = delta.text
    piece = {"index": answer.index, "delta": change, "logprobs": _likely(delta.likely), "finish_reason": finish}
    usage = {"usage": None} if asked.usage_in_stream else {}
    fingerprint = {"system_fingerprint": delta.model}
    return {**head, "object": "chat.completion.chunk", **fingerprint, "choices": [piece], **usage}


def _choice(asked: ChatCreate, answer: _Answer, head: dict[str, Any]) -> Choice:
    text = "".join(answer.text)
    rest, found = calls_in(text) if asked.tools else (text, ())
    calls = [
        Call(id=f"call_{head['id'][-12:]}{answer.index}{n}", function=Function(name=call.name, arguments=call.arguments))
        for n, call in enumerate(found)
    ]
    finish = (answer.last or answer.first).finish_reason or "stop"
    return Choice(
        index=answer.index,
        message=Said(content=rest or None if calls else rest, tool_calls=calls or None),
        logprobs=_likely(answer.likely),
        finish_reason="tool_calls" if calls else finish,
    )


def _likely(likely: list[TokenLikelihood] | tuple[TokenLikelihood, ...]) -> dict[str, Any] | None:
    if not likely:
        return None

    def one(each: TokenLikelihood) -> dict[str, Any]:
        return {"token": each.text, "bytes": list(each.bytes), "logprob": each.logprob}

    return {"content": [{**one(each), "top_logprobs": [one(other) for other in each.top]} for each in likely], "refusal": None}


def _usage(answers: list[_Answer]) -> dict[str, int]:
    prompt = answers[0].first.prompt_tokens
    made = sum((answer.last or answer.first).completion_tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _failed(error: Exception, request: Request) -> bytes:
    if isinstance(error, LuthierError):
        return _sse({"error": facts_of(request, error)})
    return b"data: " + bytes(on_bug(request, error).body) + b"\n\n"


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
