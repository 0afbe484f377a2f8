"""Log in with e-mail and password, and stay so: the client exchanges its tokens by itself."""

from __future__ import annotations

import time

from luthier.faces.sdk.answers import Answer
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.login_file import login_of
from luthier.faces.sdk.refusals import unauthenticated
from luthier.faces.sdk.transport import Call, Transport


class AsyncLogins:
    """`client.logins`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def log_in(self, email: str, password: str, *, team: str | None = None, keep: bool = False) -> Answer:
        """Act as this user from now on, in `team` or in their first one. `keep`: for later clients and commands too."""
        body = {"email": email, "password": password, "team": team}
        return await self._taken("/auth/login", body, email, keep=keep)

    async def sign_up(self, email: str, password: str, *, invitation: str | None = None, keep: bool = False) -> Answer:
        """Make an account, join the team that invited it, and log in."""
        body = {"email": email, "password": password, "invitation": invitation}
        return await self._taken("/auth/signup", body, email, keep=keep)

    async def log_out(self) -> None:
        """End this login on the server, and forget it here."""
        self._own()
        try:
            await self._transport.json(Call("POST", "/auth/logout"))
        finally:
            self._forget()

    async def change_password(self, current: str, new: str) -> None:
        """Set a new password. Every login ends, this one too."""
        self._own()
        await self._transport.json(Call("POST", "/auth/password", body={"current": current, "new": new}))
        self._forget()

    def _own(self) -> None:
        """The login, also where a key was given that would win. Raises: Unauthenticated."""
        access = self._transport.access()
        if access.login is None:
            access.reread()
        if access.login is None:
            raise unauthenticated("Nobody is logged in here.", "Log in: `tune login`.")

    def _forget(self) -> None:
        access = self._transport.access()
        access.take(None, keep=access.kept)

    async def _taken(self, path: str, body: dict[str, str | None], email: str, *, keep: bool) -> Answer:
        answer = await self._transport.json(Call("POST", path, body=body, keyless=True))
        self._transport.access().take(login_of(answer, email, time.time()), keep=keep)
        return Answer({name: value for name, value in answer.items() if not name.endswith("_token")})


class Logins(Face):
    """`client.logins`."""

    log_in = blocking(AsyncLogins.log_in)
    sign_up = blocking(AsyncLogins.sign_up)
    log_out = blocking(AsyncLogins.log_out)
    change_password = blocking(AsyncLogins.change_password)
