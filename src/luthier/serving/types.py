"""Questions to a model, and its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from luthier.registry.types import Stage
from luthier.values import Frozen, Name, Text, Whole, plain_text


class ChatMessage(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[Text | None, Field(max_length=1_000_000)] = None
    name: Annotated[Text | None, Field(max_length=256)] = None
    tool_calls: tuple[dict[str, Any], ...] | None = Field(default=None, strict=False)
    tool_call_id: Annotated[Text | None, Field(max_length=256)] = None


class Sampled(Frozen):
    """Which model is asked, and how tokens are chosen."""

    model: Annotated[str, Field(min_length=1, max_length=300), AfterValidator(plain_text)] = Field(
        description="A model id, a name (its Production version), `name@3`, or a base id."
    )
    max_tokens: Whole = Field(default=256, ge=1, le=131_072, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 takes the most likely token each time.")
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: Whole | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Annotated[tuple[Annotated[Text, Field(min_length=1, max_length=256)], ...], Field(max_length=16, strict=False)] = Field(
        default=(), description="Texts before which an answer ends."
    )
    logprobs: Whole | None = Field(
        default=None, ge=0, le=20, description="Tell how likely each token was, and so many of the likeliest beside it."
    )


class ChatRequest(Sampled):
    """What to answer, by which model, and how tokens are chosen."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=1000, strict=False)]
    tools: Annotated[tuple[dict[str, Any], ...], Field(max_length=128, strict=False)] | None = None
    json_schema: Annotated[Text | None, Field(max_length=65_536)] = Field(
        default=None, description="The answer is JSON of this schema, given as text; `{}` is any JSON."
    )
    must_call: Annotated[tuple[Annotated[Text, Field(max_length=256)], ...], Field(max_length=128, strict=False)] = Field(
        default=(), description="The answer is a call of one of these `tools`, by name, with arguments of its schema."
    )


class TextRequest(Sampled):
    """A text to go on with: no template, no roles."""

    prompt: Annotated[Text, Field(max_length=1_000_000)] | Annotated[tuple[Whole, ...], Field(max_length=131_072, strict=False)]
    """Text, or the base's own token ids."""
    echo: bool = Field(default=False, description="The answer begins with the prompt.")


DEFAULT_CLASSIFIER = "MNISTClassifier"
Pixel = Annotated[float, Field(ge=0, le=1)]


class PredictRequest(Frozen):
    """What to tell the class of: an image or a text."""

    image: Annotated[tuple[Pixel, ...], Field(max_length=1_000_000, strict=False)] | None = Field(
        default=None, description="Pixels row by row, from 0 to 1: 784 of them for a model of MNIST."
    )
    text: Annotated[Text, Field(max_length=1_000_000)] | None = None
    model_name: Name = Field(default=DEFAULT_CLASSIFIER, description="Whose version in Production answers.")


class Prediction(Frozen):
    """To which class it belongs."""

    prediction: int | str = Field(description="The likeliest class; a number where its name is one.")
    confidence: float = Field(description="How likely it is, from 0 to 1.")
    probabilities: tuple[float, ...] = Field(description="How likely each class is, in the order of `classes`.")
    classes: tuple[str, ...]
    model_name: str
    model_version: str
    model_stage: Stage


FinishReason = Literal["stop", "length"]


class TokenLikelihood(Frozen):
    """A token's text and how likely it was, in nats."""

    text: str
    bytes: tuple[int, ...]
    logprob: float
    top: tuple[TokenLikelihood, ...] = ()


class ChatDelta(Frozen):
    """A piece of an answer. The last one has a `finish_reason` and both counts, and may have no text."""

    text: str = ""
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    likely: tuple[TokenLikelihood, ...] = Field(default=(), description="Of the tokens behind this text, where asked for.")
    model: str = Field(description="The exact version that answers: a model id, or a base id.")


class ChatAnswer(Frozen):
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    model: str
