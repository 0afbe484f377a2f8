"""Endpoints that are told of events, and what became of each telling."""

from __future__ import annotations

import difflib
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from luthier.values import Frozen, Text, one_line

JOB_STATES = (
    *("validating", "awaiting_approval", "queued", "starting", "running", "succeeded", "failed", "stopped", "cancelled"),
    "paused",
)
KINDS = (
    *(f"job.{state}" for state in JOB_STATES),
    *("budget.alert", "approval.asked", "spending.unusual"),
    *("promotion.asked", "model.stage_changed", "model.deployed", "model.deleted", "drift.detected", "endpoint.test"),
)
"""Everything that can happen. `endpoint.test` goes to the endpoint that is tested, whatever it asked for."""

FOR_PEOPLE = ("job.succeeded", "job.failed", *(kind for kind in KINDS if not kind.startswith("job.")))
"""What people want to read where nobody said otherwise; a program is told everything."""


class Channel(StrEnum):
    """How an endpoint is told."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"


class DeliveryState(StrEnum):
    """How far a delivery has come."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


def known_kind(pattern: str) -> str:
    """`pattern`, if it is a kind, or `job.*` for all that begin so, or `*`. Raises: ValueError."""
    if pattern == "*" or pattern in KINDS or (pattern.endswith(".*") and any(kind.startswith(pattern[:-1]) for kind in KINDS)):
        return pattern
    near = difflib.get_close_matches(pattern[:64], KINDS, n=1)
    raise ValueError("no event is called so" + (f"; did you mean {near[0]}?" if near else ""))


Kinds = Annotated[
    tuple[Annotated[str, Field(max_length=64), AfterValidator(known_kind)], ...],
    Field(max_length=64, strict=False, description="What it is told: `job.failed`, `job.*`, `budget.alert`, `*`."),
]
Address = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(one_line)]


class NewEndpoint(Frozen):
    """An endpoint, as its owner asks for it."""

    url: Address = Field(description="An https address on port 443 or 8443; for e-mail the address of the mailbox.")
    channel: Channel = Channel.WEBHOOK
    kinds: Kinds | None = Field(default=None, description="All by default; for Slack and e-mail what concerns people.")
    secret: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="For webhooks: `whsec_` and the base64 of 24 to 64 bytes. Made for you by default."
    )
    description: Annotated[Text, Field(max_length=200)] | None = None


class EndpointChange(Frozen):
    """What can be changed of an endpoint: what it is told, and whether."""

    kinds: Kinds | None = None
    enabled: bool | None = None


class Endpoint(Frozen):
    """Where a team is told. The secret is in no answer but the first, and neither is the query of an address."""

    id: str
    channel: Channel
    url: str
    kinds: tuple[str, ...]
    description: str | None
    enabled: bool
    disabled_reason: str | None
    created_by: str
    created_at: datetime


class CreatedEndpoint(Endpoint):
    """A new endpoint. Keep its secret: it is shown this once."""

    secret: str | None


class Delivery(Frozen):
    """One event on its way to one endpoint."""

    id: str
    event_id: str
    """What the receiver sees as `webhook-id`, the same at each attempt."""
    kind: str
    state: DeliveryState
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    next_at: datetime | None
    """When it is tried (again)."""
    delivered_at: datetime | None
