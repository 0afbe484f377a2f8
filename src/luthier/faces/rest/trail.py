"""What every request leaves behind: one row in the audit log, or, where it only looked, one line in the access log."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier import ids
from luthier.accounts import deeds
from luthier.accounts.access_log import AccessLog
from luthier.accounts.audit import Audit
from luthier.accounts.deeds import Act, Deed
from luthier.accounts.rules import looks
from luthier.accounts.types import Actor
from luthier.faces.rest.errors import CODE

_OF_READS = frozenset({401, 403, 404, 429})
"""Refusals of reads that the audit log keeps too: those of whom somebody tries doors leaves."""
_OF_FILES = frozenset({"artifact_corrupt"})
"""And those of a file that is not what was stored, or leads out of the storage: somebody was at the disk."""


class Trail:
    """Around the door, so that it sees what the door refuses."""

    def __init__(self, app: ASGIApp, audit: Audit, access_log: AccessLog) -> None:
        self._app = app
        self._audit = audit
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send, self._audit)
        try:
            with deeds.doing(request.deed) if request.changing else contextlib.nullcontext():
                await self._app(scope, receive, request)
        finally:
            request.ended(self._access_log)


class _Request:
    """`send`, that notes the answer's status."""

    def __init__(self, scope: Scope, send: Send, audit: Audit) -> None:
        self._scope = scope
        self._send = send
        self._audit = audit
        self._began = time.perf_counter()
        self._status: int | None = None
        self.changing = not looks(scope["method"], scope["path"])
        self.deed = Deed(lambda: act_of(scope))

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self.changing and not self.deed.recorded and message["status"] < 400:
                # Before the answer leaves: what the caller was told is in the log, whenever the process dies.
                await anyio.to_thread.run_sync(self._audit.answered, self.deed, self._status, None)
        await self._send(message)

    def ended(self, access_log: AccessLog) -> None:
        code = self._scope.get(CODE)
        if self.changing:
            self._audit.answered(self.deed, self._status, code)
            return
        if self._status in _OF_READS or code in _OF_FILES:
            self._audit.refused(self.deed, self._status, code)
        milliseconds = round((time.perf_counter() - self._began) * 1000, 1)
        access_log.write(self.deed.act(), status=self._status, code=code, ms=milliseconds)


def act_of(scope: Scope) -> Act:
    """What this request asks for, as far as it is known by now. Holds nothing that a caller could make up but ids."""
    route: Any = scope.get("route")
    actor: Actor | None = scope.get("luthier.actor")
    client: tuple[str, int] | None = scope.get("client")
    return Act(
        action="unknown" if route is None else f"{route.tags[0].replace(' ', '_')}.{route.name}",
        actor=deeds.ANONYMOUS if actor is None else actor.user_id,
        tenant_id=None if actor is None else actor.tenant_id,
        route=None if route is None else f"{scope['method']} {route.path}",
        on=tuple(value for value in scope.get("path_params", {}).values() if isinstance(value, str) and ids.has_form(value)),
        key_id=None if actor is None else actor.key_id,
        request_id=scope.get("luthier.request_id"),
        address=None if client is None else client[0],
    )
