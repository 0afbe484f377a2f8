"""Talk to a model or a base, in OpenAI's shapes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from luthier.errors import ClientError, LuthierError
from luthier.faces.sdk.answers import Chunk, Completion
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.refusals import message_of
from luthier.faces.sdk.streams import server_events
from luthier.faces.sdk.transport import Call, Transport

_WORK_S = 1800.0
"""A large base is first loaded, and thousands of tokens take their time on a CPU; all that can pass without a word."""

Messages = Sequence[Mapping[str, Any]] | str
"""OpenAI's messages; a string is one message of the user."""


class Sampling(TypedDict, total=False):
    """How to draw the answer. What is left out, the server decides."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    tools: Sequence[Mapping[str, Any]]


class AsyncChat:
    """`client.chat`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def answer(self, model: str, messages: Messages, **sampling: Unpack[Sampling]) -> Completion:
        """One whole answer. `model` is a model id, a name, `name@3`, or a base id."""
        call = Call("POST", "/api/chat", body=_body(model, messages, sampling, stream=False), work_s=_WORK_S)
        return Completion(await self._transport.json(call))

    async def stream(self, model: str, messages: Messages, **sampling: Unpack[Sampling]) -> AsyncGenerator[Chunk]:
        """The answer piece by piece. Raises: the server's error, also where it comes in the middle."""
        headers = {"accept": "text/event-stream"}
        body = _body(model, messages, sampling, stream=True)
        call = Call("POST", "/api/chat", body=body, headers=headers, live=True, work_s=_WORK_S)
        async with self._transport.open(call) as response:
            async for message in server_events(response):
                if message.data == "[DONE]":
                    return
                yield _chunk(message.data)
        raise ClientError("The answer broke off before its end.", hint="Ask again; the server's log says why.")


class Chat(Face):
    """`client.chat`."""

    answer = blocking(AsyncChat.answer)
    stream = iterating(AsyncChat.stream)


def _body(model: str, messages: Messages, sampling: Sampling, *, stream: bool) -> dict[str, Any]:
    talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(message) for message in messages]
    given = {name: value for name, value in sampling.items() if value is not None}
    return {"model": model, "messages": talk, **given, "stream": stream}


def _chunk(data: str) -> Chunk:
    try:
        raw = json.loads(data)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise ClientError("A piece of the answer is not our JSON.", hint="Check LUTHIER_API_URL.")
    facts = raw.get("error")
    if isinstance(facts, dict):
        raise LuthierError(
            message_of(facts) or "The answer failed.", hint=facts.get("hint"), code=str(facts.get("code", "error"))
        )
    return Chunk(raw)
