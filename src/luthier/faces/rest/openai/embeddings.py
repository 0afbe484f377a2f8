"""`/v1/embeddings`: vectors of texts, where an embedder is installed."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from luthier.errors import BudgetExceeded, FieldInvalid, ModelNotAllowed, QuotaExceeded, Unavailable
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.openai.routes import Lenient, refusals, router
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.values import Text, Whole

routes = router("embeddings (OpenAI)")

_MOST_TEXTS = 2048
"""Of one request, as at OpenAI."""
One = Annotated[Text, Field(min_length=1)]


class EmbeddingsCreate(Lenient):
    """Texts to make vectors of."""

    model: Annotated[str, Field(min_length=1, max_length=300)]
    input: One | Annotated[list[One], Field(min_length=1, max_length=_MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="Numbers, or their bytes (float32, little-endian), which the official clients ask for."
    )
    dimensions: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Only as many as the embedder has.")

    @field_validator("input", mode="before")
    @classmethod
    def _no_token_ids(cls, given: object) -> object:
        numbers = isinstance(given, list) and given and isinstance(given[0], int | list)
        if numbers:
            raise ValueError(
                "ids of tokens are those of another tokenizer: send texts (LangChain: check_embedding_ctx_length=False)"
            )
        return given

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens in."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """A vector for each text, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(description="The embedder that made them.")
    usage: EmbeddingUsage


Asked = Annotated[Json[EmbeddingsCreate], such_as(model="minilm", input=["Where is my order?"])]


@routes.post(
    "/embeddings",
    responses=refusals(ModelNotAllowed, FieldInvalid, QuotaExceeded, BudgetExceeded, Unavailable),
    dependencies=[ViewersToo],
)
def create(asked: Asked, actor: CurrentActor, platform: CurrentPlatform) -> EmbeddingList:
    """Vectors of texts: what means the same lies near."""
    made = platform.embeddings.embed(actor, asked.model, asked.texts, asked.dimensions)
    shown = _base64 if asked.encoding_format == "base64" else list[float]
    data = [Embedding(index=index, embedding=shown(vector)) for index, vector in enumerate(made.vectors)]
    return EmbeddingList(data=data, model=made.by, usage=EmbeddingUsage(prompt_tokens=made.tokens, total_tokens=made.tokens))


def _base64(vector: Sequence[float]) -> str:
    """The bytes of its numbers.

    >>> _base64([1.0])
    'AACAPw=='
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
