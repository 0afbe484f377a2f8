"""One row of the audit log, as it crosses borders and as it is hashed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from luthier.values import Frozen


class Outcome(StrEnum):
    """How a request or an act ended."""

    CHANGED = "changed"  # and is committed, whatever was answered afterwards
    UNCHANGED = "unchanged"  # answered, and nothing to commit
    REFUSED = "refused"
    FAILED = "failed"


class AuditEntry(Frozen):
    """Who did what, from where, and what came of it. Never changed, never deleted."""

    id: str
    at: datetime
    until: datetime | None = Field(default=None, description="Of several equal refusals in one row: the last one.")
    tenant_id: str = Field(description="Whose chain it stands in; `platform` for what belongs to no team.")
    actor: str = Field(description="A user id, or `system`, `console` (an admin at the data folder), `anonymous`.")
    key_id: str | None = None
    address: str | None = Field(default=None, description="Where the request came from, as the server's own socket says.")
    request_id: str | None = None
    action: str = Field(description="What was asked for, e.g. `jobs.submit`.")
    route: str | None = None
    resources: list[str] = Field(description="Ids of what was asked for and of what changed.")
    outcome: Outcome
    status: int | None = Field(default=None, description="Of the answer; none for what was recorded as it was committed.")
    code: str | None = Field(default=None, description="Of a refusal: the error's code.")
    count: int = Field(default=1, description="How many equal refusals this row stands for.")
    data: dict[str, Any] | None = Field(default=None, description="Of an anchor: the heads of all chains that had grown.")
    seq: int | None = Field(default=None, description="Its number in the chain, once it is sealed.")
    sha256: str | None = Field(default=None, description="Of the row and of the hash before it.")


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read, or does not stand there as it is written: somebody changed it behind the platform's back."""

    id: str
    tenant_id: str
    seq: int | None


class Head(Frozen):
    """Where a chain ends: noted elsewhere, it proves later that nothing before it was changed or removed."""

    seq: int
    sha256: str


@dataclass(frozen=True)
class Wanted:
    """Which rows are looked for; None leaves a thing open."""

    actor: str | None = None
    action: str | None = None
    outcome: Outcome | None = None
    on: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Verdict(Frozen):
    """What a walk along all chains found."""

    rows: int
    chains: int
    unsealed: int = Field(description="Rows older than a minute that nobody sealed: the server does not run, or cannot write.")
    head: Head | None = Field(
        description="Where the platform's chain ends. Note it elsewhere to prove later that it was not cut."
    )
    faults: list[str]
