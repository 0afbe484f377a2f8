"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from luthier.values import Frozen


class Role(StrEnum):
    """What a member of a tenant may do: each includes the ones before it."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class Scope(StrEnum):
    """What a key may do of what its holder's role may."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Actor:
    """An authenticated caller, acting for one tenant."""

    tenant_id: str
    user_id: str
    role: Role
    key_id: str | None = None
    request_id: str | None = None
    scopes: frozenset[Scope] | None = None
    """None: all that the role may do."""
    address: str | None = None
    """Where the request came from."""
    spend_cap_micro_usd: int | None = None
    """What all jobs that were started with this key may cost together; None: no limit of its own."""
    session_id: str | None = None
    """The login that this is, where it is no key."""


@dataclass(frozen=True)
class Idempotency:
    """The `Idempotency-Key` of a request, and what the request was."""

    key: str
    request_sha256: str


class Me(Frozen):
    """The caller as the platform sees them."""

    user_id: str
    tenant_id: str
    email: str
    role: Role
