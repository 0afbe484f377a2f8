"""`/v1/chat/completions`: answers of bases and tuned models."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field

from luthier.datasets.decoding import StopTexts
from luthier.faces.rest import answers
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.answers import Answer
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.openai.chat_requests import ChatCreate
from luthier.faces.rest.openai.completed import Completed, head_of, streamed
from luthier.faces.rest.openai.routes import refusals, router
from luthier.faces.rest.streaming import Stream
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.serving.tool_calls import OPENS, calls_in, taken_out
from luthier.serving.types import ChatDelta, TokenLikelihood

routes = router("chat (OpenAI)")


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


class Completion(Completed):
    """Whole answers."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]


_CHUNK = "chat.completion.chunk"
_QUESTION = {"role": "user", "content": "Where is my order?"}
Asked = Annotated[Json[ChatCreate], such_as(model="luthier/tiny", messages=[_QUESTION], max_tokens=64)]


@routes.post(
    "/chat/completions",
    response_model=Completion,
    responses={**refusals(*answers.ASKING), **answers.SSE},
    dependencies=[ViewersToo],
)
async def create(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response | Completion:
    """Answer a conversation. A reader who hangs up ends it."""
    questions = [asked.question(number) for number in range(asked.answers)]
    answering = await answers.begin([answers.several(partial(platform.serving.chat, actor), questions)])
    head = head_of("chatcmpl", asked, platform.now(), request, answering)
    if asked.stream:
        return _streamed(asked, head, answering, request)
    await answers.finish(answering, request)
    choices = [_choice(asked, answer, head) for answer in answering]
    return Completion(**head, choices=choices, usage=answers.usage_of(answering))


def _streamed(asked: ChatCreate, head: dict[str, Any], answering: list[Answer], request: Request) -> Stream:
    telling = [_Telling() for _ in answering]

    def choice_of(answer: Answer, delta: ChatDelta) -> dict[str, Any] | None:
        change: dict[str, Any] = {"role": "assistant", "content": ""} if answer.begins else {}
        finish: str | None = delta.finish_reason
        text = telling[answer.index].next(delta) if asked.tools else delta.text
        if asked.tools and finish is not None:
            choice, text = _choice(asked, answer, head), text + telling[answer.index].rest(answer)
            finish = choice.finish_reason
            calls = choice.message.tool_calls or []
            change |= {"tool_calls": [{"index": n, **call.model_dump()} for n, call in enumerate(calls)]} if calls else {}
        change |= {"content": text} if text else {}
        if not change and finish is None and not delta.likely:
            return None
        return {"index": answer.index, "delta": change, "logprobs": _likely(delta.likely), "finish_reason": finish}

    return streamed(asked, {**head, "object": _CHUNK}, answering, request, choice_of)


@dataclass
class _Telling:
    """What of an answer with tools was told: its text as it comes, up to where a call may begin."""

    shown: int = 0
    stops: StopTexts = field(default_factory=lambda: StopTexts((OPENS,)))

    def next(self, delta: ChatDelta) -> str:
        """What of this piece may be told now."""
        text = self.stops.push(delta.text)
        self.shown += len(text)
        return text

    def rest(self, answer: Answer) -> str:
        """What was held back, and turned out to be no call."""
        text, calls = taken_out(answer.text, cut=_is_cut(answer))
        return text[self.shown :].rstrip() if calls else text[self.shown :]


def _choice(asked: ChatCreate, answer: Answer, head: dict[str, Any]) -> Choice:
    rest, found = calls_in(answer.text, cut=_is_cut(answer)) if asked.tools else (answer.text, ())
    calls = [
        Call(id=f"call_{head['id'][-12:]}{answer.index}{n}", function=Function(name=call.name, arguments=call.arguments))
        for n, call in enumerate(found)
    ]
    return Choice(
        index=answer.index,
        message=Said(content=rest or None if calls else rest, tool_calls=calls or None),
        logprobs=_likely(answer.likely),
        finish_reason="tool_calls" if calls and not _is_cut(answer) else answer.finish_reason,
    )


def _is_cut(answer: Answer) -> bool:
    """Whether its length has ended it; then a call may lack its end, as it does with OpenAI."""
    return answer.finish_reason == "length"


def _likely(likely: list[TokenLikelihood] | tuple[TokenLikelihood, ...]) -> dict[str, Any] | None:
    if not likely:
        return None

    def one(each: TokenLikelihood) -> dict[str, Any]:
        return {"token": each.text, "bytes": list(each.bytes), "logprob": each.logprob}

    return {"content": [{**one(each), "top_logprobs": [one(other) for other in each.top]} for each in likely], "refusal": None}
