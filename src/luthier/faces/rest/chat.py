"""Chat with a tuned model or a bare base, in the shapes of OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field

from luthier.faces.rest import answers
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.answers import Answer, Usage
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems, request_id
from luthier.faces.rest.streaming import Stream
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


class Completion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds.")
    model: str = Field(description="The exact version that answered.")
    choices: list[Choice]
    usage: Usage


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
_ROLE = {"role": "assistant"}
Asked = Annotated[Json[ChatBody], shown_as(_EXAMPLES)]


@routes.post("", dependencies=[ViewersToo], response_model=Completion, responses={**problems(*answers.ASKING), **answers.SSE})
async def chat(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response | Completion:
    """Answer a conversation. A reader who hangs up ends it."""
    question = ChatRequest.model_validate(asked.model_dump(exclude={"stream"}))
    answering = await answers.begin([[lambda: platform.serving.chat(actor, question)]])
    head: dict[str, Any] = {"id": f"chatcmpl-{request_id(request)}", "created": int(platform.now().timestamp())}
    if asked.stream:
        chunks = answers.events(answering, request, lambda answer, delta: _chunk(head, answer, delta))
        return Stream(chunks, media_type="text/event-stream")
    await answers.finish(answering, request)
    (answer,) = answering
    choice = Choice(message=Said(content=answer.text), finish_reason=answer.finish_reason)
    return Completion(**head, model=answer.first.model, choices=[choice], usage=answers.usage_of(answering))


def _chunk(head: dict[str, Any], answer: Answer, delta: ChatDelta) -> dict[str, Any]:
    change = {"content": delta.text} if delta.text or answer.begins else {}
    chunk: dict[str, Any] = {
        **head,
        "object": "chat.completion.chunk",
        "model": delta.model,
        "choices": [
            {"index": 0, "delta": {**_ROLE, **change} if answer.begins else change, "finish_reason": delta.finish_reason}
        ],
    }
    if delta.finish_reason is not None:
        chunk["usage"] = answers.usage_of([answer]).model_dump()
    return chunk
