"""Inbound webhooks: a run that whoever knows the secret may start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.accounts.types import Actor, Idempotency
from luthier.jobs.spec import RunSpec
from luthier.values import Frozen, Name, Usd

Override = Literal["dataset", "validation_dataset", "name", "seed"]


class NewHook(Frozen):
    """A hook, as its owner asks for it."""

    name: Name
    run: RunSpec = Field(description="What a call starts.")
    overrides: Annotated[tuple[Override, ...], Field(strict=False, max_length=4)] = Field(
        default=("dataset",), description="Fields of the run that a call may give in its body."
    )
    spend_cap_usd: Usd | None = Field(default=None, description="What all jobs of this hook may cost together.")


class Hook(Frozen):
    """An inbound webhook. It acts with a key of its own, of the audience `webhook`: to revoke that stops it too."""

    id: str
    name: str
    path: str = Field(description="Where it is called: `POST <server><path>`, signed as Standard Webhooks says.")
    run: Mapping[str, Any]
    overrides: tuple[str, ...]
    spend_cap_usd: str | None
    key_id: str
    created_by: str
    created_at: datetime


class CreatedHook(Hook):
    """A new hook. Keep its secret: it is shown this once."""

    secret: str


@dataclass(frozen=True)
class Call:
    """A request, as it came: nobody has looked at its signature yet."""

    id: str
    """As its sender calls it: a second one with the same id starts nothing."""
    stamp: str
    signature: str
    body: bytes


@dataclass(frozen=True)
class Believed:
    """A call that is signed by whoever knows the secret: in whose name, what it starts, and what it may say of it."""

    actor: Actor
    template: str
    overrides: tuple[str, ...]
    idempotency: Idempotency
