"""Who is asking."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from luthier.values import Frozen, Name, Usd, micro_usd, plain_text

_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?", re.ASCII)


class Role(StrEnum):
    """What a member of a tenant may do: each includes the ones before it."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class Scope(StrEnum):
    """What a key may do of what its holder's role may."""

    READ = "read"
    WRITE = "write"


class Audience(StrEnum):
    """Which door a key opens. One that leaked from one door opens no other."""

    API = "api"
    MCP = "mcp"
    WEBHOOK = "webhook"


def folded(email: str) -> str:
    """The one form in which an e-mail address is kept: an account has one. Raises: ValueError.

    Only ASCII is taken: two addresses that look the same to people would be two accounts.

    >>> folded("Ada@Example.org")
    'ada@example.org'
    """
    small = email.lower()
    if not _EMAIL.fullmatch(small) or ".." in small:
        raise ValueError("this is not an e-mail address in plain ASCII, like ada@example.org")
    return small


Email = Annotated[str, Field(max_length=254, examples=["ada@example.org"]), AfterValidator(folded)]
Password = Annotated[
    str,
    Field(min_length=10, max_length=1024, description="10 to 1,024 characters.", examples=["a long sentence is best"]),
    AfterValidator(plain_text),
]
GivenPassword = Annotated[str, Field(max_length=1024, description="The password."), AfterValidator(plain_text)]
"""One that is only compared: what is too short to be set is just wrong."""


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
    spends_as: str | None = None
    """The key that these jobs count for: the first one, where this one replaced it; None: the key itself."""
    login_id: str | None = None
    """The login that this came of, where it is no key."""

    @property
    def paying_key_id(self) -> str | None:
        """The key whose spend cap binds what is started now."""
        return self.spends_as or self.key_id


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


class KeyWish(Frozen):
    """What a new key should be. Left out means: all that its holder may do, for ever."""

    name: Name = Field(examples=["nightly evaluation"])
    scopes: Annotated[tuple[Scope, ...], Field(strict=False, min_length=1, max_length=2)] | None = Field(
        default=None, description="`read` for GET, `write` for all else. Left out: both.", examples=[["read"]]
    )
    expires_in_days: int | None = Field(default=None, ge=1, le=3650, examples=[90])
    audience: Audience = Field(default=Audience.API, description="`mcp` and `webhook` open that door only.")
    spend_cap_usd: Usd | None = Field(default=None, description="What its jobs may cost together.", examples=["25.00"])

    @property
    def spend_cap_micro_usd(self) -> int | None:
        return None if self.spend_cap_usd is None else micro_usd(self.spend_cap_usd)


class Key(Frozen):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str = Field(description="Its first characters. Empty for keys of the first version.")
    user_id: str
    scopes: tuple[Scope, ...] | None = Field(description="None: all that its holder may do.")
    audience: Audience
    spend_cap_usd: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class NewKey(Frozen):
    """A key, and this once its secret."""

    secret: str = Field(description="Keep it now: it is not shown again.")
    key: Key


class Tokens(Frozen):
    """What a login gives."""

    access_token: str = Field(description="For `Authorization: Bearer`.")
    token_type: str = "bearer"  # noqa: S105  # the word of RFC 6750
    expires_in: int = Field(description="Seconds until the access token ends.")
    refresh_token: str = Field(description="For `POST /auth/refresh`, once: that gives the next one.")
    refresh_expires_at: datetime = Field(description="When this login ends, refreshed or not.")
    user_id: str
    tenant_id: str = Field(description="The team that it acts for.")
    role: Role


class User(Frozen):
    """Somebody with an account on this server."""

    id: str
    email: str
    created_at: datetime
    disabled_at: datetime | None
    has_password: bool
    confirmed: bool
    """Whether the address is known to be theirs: only then is the login of an OpenID provider linked to it."""


class Team(Frozen):
    """A team, and what the caller is in it."""

    id: str
    name: str
    role: Role
    created_at: datetime


class AnyTeam(Frozen):
    """A team, as those who run the server see it."""

    id: str
    name: str
    members: int
    suspended_at: datetime | None


class Member(Frozen):
    """Somebody's place in a team."""

    user_id: str
    email: str
    role: Role


class Invitation(Frozen):
    """An offer to join a team, for one e-mail address, once."""

    id: str
    email: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime


class NewInvitation(Frozen):
    """An invitation, and this once its token."""

    token: str = Field(description="Give it to the person: it is not shown again.")
    invitation: Invitation
