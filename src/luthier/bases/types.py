"""Base models as values. Imports only values, because a trainer on another machine reads it too."""

from __future__ import annotations

from pydantic import Field

from luthier.values import Frozen

TINY = "luthier/tiny"
"""The base that ships with the platform: built on the spot, needs no hub."""


class BaseShape(Frozen):
    """The sizes that decide memory and speed, as the model's own `config.json` states them."""

    hidden: int = Field(ge=1, description="Width of the residual stream.")
    intermediate: int = Field(ge=1, description="Inner width of the feed-forward layers.")
    layers: int = Field(ge=1)
    heads: int = Field(ge=1, description="Query heads.")
    kv_heads: int = Field(ge=1, description="Key and value heads; fewer than `heads` with grouped attention.")
    head_dim: int = Field(ge=1)
    vocab: int = Field(ge=1, description="Rows of the embedding.")
    context: int = Field(ge=1, description="Longest prompt and answer together, in tokens.")
    tied: bool = Field(default=True, description="The output layer is the embedding.")
    attention_bias: bool = Field(default=False, description="Query, key and value layers have a bias.")
    qk_norm: bool = Field(default=False, description="Queries and keys are normalised.")


class Base(BaseShape):
    """An allowed base model at one revision."""

    id: str = Field(description="`luthier/tiny`, or an id on the hub.")
    revision: str = Field(description="A commit, `1` for the shipped base, or `main`: the commit that the first fetch found.")
    parameters: int = Field(description="Weights, counted from the sizes.")
    license: str = Field(description="SPDX identifier.")
    languages: tuple[str, ...] = Field(default=(), description="ISO 639-1.")
    aliases: tuple[str, ...] = Field(default=(), description="Short names that mean the same base.")
    description: str = ""
    ready: bool = Field(default=False, description="It lies on this machine: no fetch before the first step.")
