"""The door: every request gets an id, every caller is known before anything else runs, every answer gets safe headers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import anyio.to_thread
from fastapi.requests import HTTPConnection
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier import ids
from luthier.accounts.access_tokens import MOST_CHARACTERS
from luthier.accounts.limits import Standing
from luthier.accounts.request_limits import RequestLimits
from luthier.accounts.service import Accounts
from luthier.accounts.types import Actor
from luthier.errors import BadRequest, LuthierError, NotFound, Unauthenticated
from luthier.faces.rest.errors import answer, limit_headers, on_bug

_OPEN = frozenset({"/health", "/auth/login", "/auth/signup", "/auth/refresh", "/auth/oidc/login", "/auth/oidc/callback"})
_DOCS = frozenset({"/", "/docs", "/docs.js", "/docs.css", "/openapi.json"})

SIGNED = ("/hooks/", "/links/")
"""Below these there is no key either: the route finds out by its signature who asks."""

_SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def open_paths(docs: bool) -> frozenset[str]:
    """What needs no key; `docs`: whether the API's own description is among it."""
    return _OPEN | _DOCS if docs else _OPEN


class Door:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, accounts: Accounts, limits: RequestLimits, open_paths: frozenset[str]) -> None:
        self._app = app
        self._accounts = accounts
        self._limits = limits
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["luthier.request_id"] = ids.new(ids.REQUEST)
        dressed = _Dressed(scope, send)
        try:
            connection = HTTPConnection(scope)
            _once(connection, "host")
            if scope["path"] in self._open or scope["path"].startswith(SIGNED):
                dressed.standing = await self._counted(partial(self._limits.admit_address, _address(connection)))
            else:
                actor = scope["luthier.actor"] = await self._actor(connection)
                dressed.standing = await self._counted(partial(self._limits.admit, actor, scope["method"], scope["path"]))
            await self._app(scope, receive, dressed)
        except LuthierError as error:
            await answer(HTTPConnection(scope), error)(scope, receive, dressed)
        except Exception as error:  # the edge of the process: whatever nobody foresaw must still be an answer and a log entry
            response = on_bug(HTTPConnection(scope), error)
            if dressed.started:
                raise
            await response(scope, receive, dressed)

    async def _actor(self, connection: HTTPConnection) -> Actor:
        address = _address(connection)
        try:
            team = _once(connection, "x-luthier-team")
            actor = self._accounts.authenticate(_credential(connection), team=team)
        except (Unauthenticated, NotFound, BadRequest):  # whoever is not let in counts: also who tries teams with a good key
            await self._counted(partial(self._limits.admit_address, address))
            raise
        return dataclasses.replace(actor, request_id=connection.scope["luthier.request_id"], address=address)

    async def _counted(self, admit: Callable[[], Standing | None]) -> Standing | None:
        """Counting in this process takes microseconds; asking another machine must not hold up everybody else."""
        return await anyio.to_thread.run_sync(admit) if self._limits.remote else admit()


class _Dressed:
    """`send`, with our headers on the first message."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self.started = False
        self.standing: Standing | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._scope["luthier.request_id"]
            headers["server-timing"] = f"app;dur={(time.perf_counter() - self._began) * 1000:.1f}"
            if self.standing is not None:
                headers.update(limit_headers(self.standing.limit, self.standing.remaining, self.standing.reset_s))
            for name, value in _SAFE_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _address(connection: HTTPConnection) -> str | None:
    return None if connection.client is None else connection.client.host


def _once(connection: HTTPConnection, name: str) -> str | None:
    """The header of this name. Raises: BadRequest where it came twice: whoever stands before us may have read the other one."""
    values = connection.headers.getlist(name)
    if len(values) > 1:
        raise BadRequest(f"The header `{name}` came twice.", hint="Send it once.")
    return values[0] if values else None


def _credential(connection: HTTPConnection) -> str:
    """The key or token of this request. Raises: Unauthenticated; BadRequest where two are given that differ."""
    found: set[str] = set()
    for value in connection.headers.getlist("authorization"):
        scheme, _, rest = value.partition(" ")
        if scheme.lower() != "bearer" or not rest or len(rest) > MOST_CHARACTERS or rest != rest.strip():
            raise Unauthenticated
        found.add(rest)
    found |= set(connection.headers.getlist("x-api-key"))
    if len(found) > 1:
        raise BadRequest("Two keys came with this request, and they differ.", hint="Send one key, in one header.")
    if not found:
        raise Unauthenticated
    return found.pop()
