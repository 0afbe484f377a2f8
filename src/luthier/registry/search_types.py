"""What models are searched by, and what is recommended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from luthier.registry.types import Model
from luthier.values import Frozen, Text


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Sentence = Annotated[Text, Field(min_length=1, max_length=2000), AfterValidator(_says_something)]
Number = Annotated[float, Field(strict=False)]


@dataclass(frozen=True)
class Wanted:
    """What a card must say, upper and lower case alike; what is None or empty does not count."""

    base_model: str | None = None
    language: str | None = None
    task: str | None = None
    tags: tuple[str, ...] = ()
    """All of them."""
    text: str | None = None
    """Words that all occur, or begin one that occurs, somewhere on the card."""


class RecommendRequest(Frozen):
    """By words or by a vector: one of both."""

    text: Sentence | None = Field(default=None, description="What the model is to do, in plain words.")
    embedding: Annotated[tuple[Number, ...], Field(min_length=1, max_length=4096, strict=False)] | None = Field(
        default=None, description="A vector by this server's embedder, as `card.embedding` of a model holds one."
    )
    limit: Annotated[int, Field(ge=1, le=50, description="Most models that are recommended.")] = 5

    @model_validator(mode="after")
    def _one(self) -> RecommendRequest:
        if (self.text is None) == (self.embedding is None):
            raise ValueError("give `text` or `embedding`, one of both")
        return self


class Recommendation(Frozen):
    """A model, and why it is here."""

    model: Model
    score: float = Field(description="By vectors the cosine, from -1 to 1; by words BM25, from 0.")
    why: tuple[str, ...] = Field(description="Words that are both in the question and on the card.")


class Recommended(Frozen):
    """Models, best first."""

    by: str = Field(description="The embedder that compared them, or `lexical` where words were compared.")
    data: tuple[Recommendation, ...]
    waiting: int = Field(default=0, description="Models whose vector is not made yet; each question makes some.")
