"""What chats and completions answer alike: the frame around their choices, whole and in a stream."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field

from luthier.faces.rest import answers
from luthier.faces.rest.answers import Answer, Usage
from luthier.faces.rest.errors import request_id
from luthier.faces.rest.openai.sampling import Sampling
from luthier.faces.rest.streaming import Stream
from luthier.serving.types import ChatDelta


class Completed(BaseModel):
    """Whole answers, but for the choices."""

    id: str
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="As it was asked for.")
    usage: Usage
    system_fingerprint: str | None = Field(default=None, description="The exact version that answered.")


def head_of(kind: str, asked: Sampling, at: datetime, request: Request, answering: list[Answer]) -> dict[str, Any]:
    """What the whole answer and each piece of a stream begin with. kind: the letters before its id."""
    return {
        "id": f"{kind}-{request_id(request)}",
        "created": int(at.timestamp()),
        "model": asked.model,
        "system_fingerprint": answering[0].first.model,
    }


def streamed(
    asked: Sampling,
    head: dict[str, Any],
    answering: list[Answer],
    request: Request,
    choice: Callable[[Answer, ChatDelta], dict[str, Any] | None],
) -> Stream:
    """The answers piece by piece, with what they used at the end where that was asked for.

    choice: of a piece; None says nothing.
    """
    usage = {"usage": None} if asked.usage_in_stream else {}

    def chunk(answer: Answer, delta: ChatDelta) -> dict[str, Any] | None:
        told = choice(answer, delta)
        return None if told is None else {**head, "choices": [told], **usage}

    def last() -> dict[str, Any] | None:
        return {**head, "choices": [], "usage": answers.usage_of(answering).model_dump()} if usage else None

    return Stream(answers.events(answering, request, chunk, last), media_type="text/event-stream")
