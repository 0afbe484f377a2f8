"""What chat and completions ask alike: the model, how tokens are chosen, and how many answers there are."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from luthier.faces.rest.openai.routes import Lenient
from luthier.faces.rest.validation import refused
from luthier.serving.types import Sampled
from luthier.values import Text, Whole

R = TypeVar("R", bound=Sampled)

MOST_ANSWERS = 16
"""Of one request: each takes a place in the engine, and a thread of the server while it waits for its next token."""
_SEED_STEP = 1_000_003
"""Between the seeds of two answers: far apart, so that seed 1's second answer is not seed 2's first."""


class StreamOptions(Lenient):
    """What a stream tells besides."""

    include_usage: bool = False


class Sampling(Lenient):
    """How tokens are chosen, and how many answers there are."""

    model: Annotated[str, Field(min_length=1, max_length=300)]
    temperature: float | None = Field(default=None, ge=0, le=2, description="1 where it is left out, as at OpenAI.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[Whole, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        default=None, description="No token can be favoured here: anything but an empty one is refused."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def answers(self) -> int:
        return self.n or 1

    @property
    def usage_in_stream(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def chosen(self, number: int) -> dict[str, Any]:
        """The fields of a question that say how its tokens are chosen; each of several answers draws by itself."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "model": self.model,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p or 1.0,
            "seed": None if self.seed is None else (self.seed + number * _SEED_STEP) % 2**63,
            "stop": tuple(each for each in stops if each),
        }


def asked_of(kind: type[R], **fields: Any) -> R:
    """A question of this kind. Raises: FieldInvalid."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise refused(error.errors(include_url=False, include_context=False, include_input=False), model=kind) from None
