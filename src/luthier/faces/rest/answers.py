"""Answers of models on their way to a reader: one or several, whole or piece by piece. A reader who hangs up ends them all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel

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
    TooMany,
)
from luthier.faces.rest.errors import facts_of, on_bug
from luthier.faces.rest.streaming import close_in_thread, in_thread, until_hang_up
from luthier.serving.types import ChatDelta, FinishReason, Sampled, TokenLikelihood

ASKING: tuple[type[LuthierError], ...] = (
    *(NotFound, Gone, ModelNotReady, ModelNotAllowed, FieldInvalid, ArtifactCorrupt, RenderingDiffers),
    *(QuotaExceeded, BudgetExceeded, BaseUnavailable, EngineUnavailable, ModelLoading, TooMany),
)
"""What every route that asks a model may be refused with."""
SSE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

Begin = Callable[[], Iterator[ChatDelta]]
"""Starts one answer; what is wrong with a question is raised here."""


class Usage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass
class Answer:
    """One of the answers, as far as it has come."""

    index: int
    prompt: int
    """Which prompt it answers: several answers to one read it once."""
    deltas: Iterator[ChatDelta]
    first: ChatDelta
    pieces: list[str] = field(default_factory=list[str])
    likely: list[TokenLikelihood] = field(default_factory=list[TokenLikelihood])
    last: ChatDelta | None = None

    def take(self, delta: ChatDelta) -> None:
        self.pieces.append(delta.text)
        self.likely += delta.likely
        self.last = delta

    @property
    def begins(self) -> bool:
        """Whether no more than its first piece was taken."""
        return len(self.pieces) <= 1

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finish_reason(self) -> FinishReason:
        return (self.last or self.first).finish_reason or "stop"


def several(ask: Callable[..., Iterator[ChatDelta]], questions: Sequence[Sampled]) -> list[Begin]:
    """How the answers to one prompt begin: the first counts it, the others are `another` answer to it."""
    return [partial(ask, question, another=number > 0) for number, question in enumerate(questions)]


async def begin(questions: Sequence[Sequence[Begin]]) -> list[Answer]:
    """Start the answers to each prompt, those to one side by side. None goes on where one is refused. Raises: `ASKING`."""
    answers: list[Answer] = []
    async with AsyncExitStack() as begun:
        for prompt, several in enumerate(questions):
            for question in several:
                deltas = await anyio.to_thread.run_sync(question)
                begun.push_async_callback(close_in_thread, deltas)
                answers.append(Answer(len(answers), prompt, deltas, await anyio.to_thread.run_sync(next, deltas)))
        begun.pop_all()  # all have begun: from here on whoever reads them closes them
    return answers


async def finish(answers: list[Answer], request: Request) -> None:
    """Wait for all of them. Raises: what one of them raised."""
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_hang_up, request.receive, tasks.cancel_scope)
        async with aclosing(_merged(answers)) as coming:
            async for answer, delta in coming:
                if isinstance(delta, Exception):
                    failed = delta  # carried out of the group, which would wrap it
                    break
                answer.take(delta)
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def events(
    answers: list[Answer],
    request: Request,
    chunk: Callable[[Answer, ChatDelta], dict[str, Any] | None],
    last: Callable[[], dict[str, Any] | None] = lambda: None,
) -> AsyncGenerator[bytes]:
    """Server-sent events: what `chunk` makes of each piece, once it was taken, and `last` of the end; None says nothing."""
    try:
        async with aclosing(_merged(answers)) as coming:
            async for answer, delta in coming:
                if isinstance(delta, Exception):
                    yield _failed(delta, request)
                    return
                answer.take(delta)
                told = chunk(answer, delta)
                if told is not None:
                    yield _sse(told)
        told = last()
        if told is not None:
            yield _sse(told)
        yield b"data: [DONE]\n\n"
    finally:
        for answer in answers:  # also where the reader went before the first piece was asked for
            await close_in_thread(answer.deltas)


def usage_of(answers: Sequence[Answer]) -> Usage:
    """Tokens of all of them."""
    prompts = sum({answer.prompt: answer.first.prompt_tokens for answer in answers}.values())
    made = sum((answer.last or answer.first).completion_tokens for answer in answers)
    return Usage(prompt_tokens=prompts, completion_tokens=made, total_tokens=prompts + made)


async def _merged(answers: list[Answer]) -> AsyncGenerator[tuple[Answer, ChatDelta | Exception]]:
    """The pieces of all answers, as they come; an error is the last. Closed, it waits until no thread is inside of an answer."""
    coming: asyncio.Queue[tuple[Answer, ChatDelta | Exception | None]] = asyncio.Queue()
    room = asyncio.Semaphore(2 * len(answers))
    closing = False

    async def told(answer: Answer, piece: ChatDelta | Exception | None) -> bool:
        await room.acquire()
        coming.put_nowait((answer, piece))
        return not closing

    async def pump(answer: Answer) -> None:
        try:
            going = await told(answer, answer.first)
            async with aclosing(in_thread(answer.deltas)) as deltas:
                while going and (delta := await anext(deltas, None)) is not None:
                    going = await told(answer, delta)
            await told(answer, None)
        except Exception as error:  # noqa: BLE001  # carried to the reader, who raises it or tells it
            await told(answer, error)

    # Tasks of asyncio's own: a task group of anyio must not be left from inside a generator.
    pumps = [asyncio.create_task(pump(answer)) for answer in answers]
    left = len(pumps)
    try:
        while left:
            answer, piece = await coming.get()
            room.release()
            if piece is None:
                left -= 1
                continue
            yield answer, piece
            if isinstance(piece, Exception):
                return
    finally:
        closing = True
        for _ in range(3 * len(pumps)):  # what waits for room is let go: a piece, the end, and what the end may raise
            room.release()
        # Not cancelled: what a thread is still inside of cannot be closed. It is left with the token at hand.
        with anyio.CancelScope(shield=True):
            await asyncio.wait(pumps)


def _failed(error: Exception, request: Request) -> bytes:
    if isinstance(error, LuthierError):
        return _sse({"error": facts_of(request, error)})
    return b"data: " + bytes(on_bug(request, error).body) + b"\n\n"


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
