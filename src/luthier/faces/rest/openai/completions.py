"""`/v1/completions`: how a model goes on with a text. No template, no roles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field, field_validator

from luthier.errors import FieldInvalid
from luthier.faces.rest import answers
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.answers import Answer
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.openai.completed import Completed, head_of, streamed
from luthier.faces.rest.openai.routes import refusals, router
from luthier.faces.rest.openai.sampling import MOST_ANSWERS, Sampling, asked_of
from luthier.faces.rest.streaming import Stream
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.serving.types import ChatDelta, FinishReason, TextRequest, TokenLikelihood
from luthier.values import Text, Whole

routes = router("completions (OpenAI)")

_USUAL_MOST = 16
"""OpenAI's default for an answer's tokens."""

Ids = Annotated[list[Whole], Field(min_length=1, max_length=131_072)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_ANSWERS)]
Several = Annotated[list[Ids], Field(min_length=1, max_length=MOST_ANSWERS)]


class CompletionCreate(Sampling):
    """A text to go on with."""

    prompt: Text | Texts | Ids | Several = Field(description="Text, the base's own token ids, or a list of either.")
    max_tokens: Annotated[Whole, Field(ge=1, le=131_072)] | None = Field(default=None, description="16 where it is left out.")
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    echo: bool | None = Field(default=None, description="The answer begins with the prompt.")
    suffix: Text | None = Field(default=None, description="What the answer would lead up to: refused, if anything is in it.")

    @field_validator("suffix")
    @classmethod
    def _leads_nowhere(cls, suffix: str | None) -> str | None:
        if suffix:
            raise ValueError("the models here go on with a text; they do not fill in what stands before another")
        return suffix

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """What is to be gone on with, one answer a prompt and `n`."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [each for each in self.prompt if isinstance(each, str)]
        lists = [each for each in self.prompt if isinstance(each, list)]
        return texts or lists or [[each for each in self.prompt if isinstance(each, int)]]

    def questions(self) -> list[list[TextRequest]]:
        """For each prompt the questions behind its answers. Raises: FieldInvalid."""
        prompts = self.prompts
        if len(prompts) * self.answers > MOST_ANSWERS:
            raise FieldInvalid(
                f"{len(prompts)} prompts with {self.answers} answers each are more than {MOST_ANSWERS} answers.",
                hint="Send several requests; their answers are computed together all the same.",
                param="n",
            )
        if self.echo and self.logprobs is not None:
            raise FieldInvalid(
                "How likely a prompt's own tokens are is not told here.", hint="Leave out `echo` or `logprobs`.", param="echo"
            )
        return [[self._question(prompt, number) for number in range(self.answers)] for prompt in prompts]

    def _question(self, prompt: str | Sequence[int], number: int) -> TextRequest:
        return asked_of(
            TextRequest,
            **self.chosen(number),
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            max_tokens=self.max_tokens or _USUAL_MOST,
            logprobs=self.logprobs,
            echo=bool(self.echo),
        )


class Likelihoods(BaseModel):
    """How likely each token was, and where in the text it stands."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Likelihoods | None = None
    finish_reason: FinishReason


class Completion(Completed):
    """Whole answers."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[Choice]


Asked = Annotated[Json[CompletionCreate], such_as(model="luthier/tiny", prompt="Once upon a time", max_tokens=64)]


@routes.post(
    "/completions",
    response_model=Completion,
    responses={**refusals(*answers.ASKING), **answers.SSE},
    dependencies=[ViewersToo],
)
async def create(asked: Asked, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response | Completion:
    """Go on with one text or several. A reader who hangs up ends it."""
    begins = [answers.several(partial(platform.serving.complete, actor), each) for each in asked.questions()]
    answering = await answers.begin(begins)
    head = head_of("cmpl", asked, platform.now(), request, answering)
    if asked.stream:
        return _streamed(asked, head, answering, request)
    await answers.finish(answering, request)
    choices = [
        Choice(
            index=each.index,
            text=each.text,
            logprobs=None if asked.logprobs is None else _likely(each.likely, 0),
            finish_reason=each.finish_reason,
        )
        for each in answering
    ]
    return Completion(**head, choices=choices, usage=answers.usage_of(answering))


def _streamed(asked: CompletionCreate, head: dict[str, Any], answering: list[Answer], request: Request) -> Stream:
    told = [0] * len(answering)
    """Characters of each answer's tokens so far."""

    def choice_of(answer: Answer, delta: ChatDelta) -> dict[str, Any]:
        likely = _likely(delta.likely, told[answer.index]) if delta.likely else None
        told[answer.index] += sum(len(each.text) for each in delta.likely)
        return {
            "index": answer.index,
            "text": delta.text,
            "logprobs": likely and likely.model_dump(),
            "finish_reason": delta.finish_reason,
        }

    return streamed(asked, {**head, "object": "text_completion"}, answering, request, choice_of)


def _likely(likely: Sequence[TokenLikelihood], start: int) -> Likelihoods:
    """Of an answer that ended at once: empty lists."""
    offsets = list(accumulate((len(each.text) for each in likely), initial=start))[:-1]
    return Likelihoods(
        tokens=[each.text for each in likely],
        token_logprobs=[each.logprob for each in likely],
        top_logprobs=[{other.text: other.logprob for other in each.top} for each in likely],
        text_offset=offsets,
    )
