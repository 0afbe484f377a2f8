"""Log in, stay logged in, log out. What a key does needs none of this."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import Field

from luthier.accounts.types import Email, GivenPassword, Password, Tokens
from luthier.errors import (
    AccountExists,
    FieldInvalid,
    Forbidden,
    Gone,
    LoginRefused,
    NotFound,
    TooMany,
    Unauthenticated,
)
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.values import Frozen

routes = router("/auth", "auth")

R = TypeVar("R")
TeamId = Annotated[str, Field(pattern=r"^team_[0-9a-z]{26}$", description="Act for this team of yours; else for your first.")]
_AT_A_TIME = 2
_MOST_WAITING = 64


class Lane:
    """Where passwords are hashed: two at a time, and never in the threads that serve everything else."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_A_TIME, "hashing")
        self._room = threading.BoundedSemaphore(_AT_A_TIME + _MOST_WAITING)

    async def run(self, work: Callable[[], R]) -> R:
        """What `work` returns. Raises: TooMany where too many wait already."""
        if not self._room.acquire(blocking=False):
            raise TooMany("Too many people log in at this moment.", retry_after_s=5)
        # In the context of the request: the audit log knows by it on whose behalf a row is written.
        future = self._pool.submit(copy_context().run, work)
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)


async def _lane(request: Request) -> Lane:
    return request.app.state.lane


async def _address(request: Request) -> str | None:
    return None if request.client is None else request.client.host


HashingLane = Annotated[Lane, Depends(_lane)]
Address = Annotated[str | None, Depends(_address)]


class LoginRequest(Frozen):
    """Who they say they are."""

    email: Email
    password: GivenPassword
    team: TeamId | None = None


class RefreshRequest(Frozen):
    """The refresh token of the answer before."""

    refresh_token: Annotated[str, Field(max_length=200)]
    team: TeamId | None = None


class SignupRequest(Frozen):
    """A new account."""

    email: Email
    password: Password
    invitation: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="The token of an invitation to this address; needed unless this server is open to everybody."
    )


class PasswordRequest(Frozen):
    """A new password for the caller."""

    current: GivenPassword
    new: Password


_WHO = {"email": "ada@example.com", "password": "correct horse battery staple"}
_CHANGE = {"current": "correct horse battery staple", "new": "a longer one, with more to it"}
Login = Annotated[Json[LoginRequest], such_as(**_WHO)]
Signup = Annotated[Json[SignupRequest], such_as(**_WHO, invitation="the token of the invitation")]
Refresh = Annotated[Json[RefreshRequest], such_as(refresh_token="the one of the answer before")]  # noqa: S106  # no password
Change = Annotated[Json[PasswordRequest], such_as(**_CHANGE)]


@routes.post("/login", responses=problems(LoginRefused, FieldInvalid, TooMany))
async def login(asked: Login, lane: HashingLane, address: Address, platform: CurrentPlatform) -> Tokens:
    """Tokens for a password: an access token for ten minutes, and a refresh token for the next one."""
    logins = platform.accounts.logins
    return await lane.run(partial(logins.log_in, asked.email, asked.password, team=asked.team, address=address))


@routes.post("/signup", status_code=201, responses=problems(Forbidden, NotFound, Gone, AccountExists, FieldInvalid, TooMany))
async def signup(asked: Signup, lane: HashingLane, address: Address, platform: CurrentPlatform) -> Tokens:
    """Make an account with a team of its own, join the team that invited it, and log in."""
    accounts = platform.accounts
    if asked.invitation is None and not platform.settings.open_signup:
        raise Forbidden("This server makes accounts for those who were invited.", hint="Ask an admin of a team to invite you.")
    await lane.run(partial(accounts.teams.sign_up, asked.email, asked.password, asked.invitation))
    return await lane.run(partial(accounts.logins.log_in, asked.email, asked.password, address=address))


@routes.post("/refresh", responses=problems(Unauthenticated, NotFound, FieldInvalid))
def refresh(asked: Refresh, platform: CurrentPlatform) -> Tokens:
    """The next two tokens. A refresh token is good for one exchange: one that comes twice ends the whole login."""
    return platform.accounts.logins.refresh(asked.refresh_token, team=asked.team)


@routes.post("/logout", status_code=204, dependencies=[ViewersToo], responses=problems(Forbidden))
def logout(actor: CurrentActor, platform: CurrentPlatform) -> None:
    """End this login: its tokens are refused from now on."""
    platform.accounts.logins.log_out(actor)


@routes.post(
    "/password",
    status_code=204,
    dependencies=[ViewersToo],
    responses=problems(LoginRefused, Forbidden, FieldInvalid, TooMany),
)
async def password(asked: Change, lane: HashingLane, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Set a new password. Every login of yours ends, this one too; keys stay as they are."""
    await lane.run(partial(platform.accounts.logins.change_password, actor, asked.current, asked.new))
