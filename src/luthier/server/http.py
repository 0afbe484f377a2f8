"""HTTP on the wire: uvicorn's fast parser, with an end to what it takes in."""

from __future__ import annotations

import resource
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from luthier.errors import ServerFull
from luthier.faces.rest.errors import answer

_MOST_HEAD_BYTES = 64 * 1024
"""As uvicorn's other parser has it. httptools keeps what comes for as long as it comes: one connection could fill the memory."""
_MOST_CONNECTIONS = 4096
_OWN_FILES = 256
"""What the server opens itself: its database, uploads, the way to engines. Without them no request can be answered."""


def room_for_connections() -> int:
    """Ask for as many open files as this process may have, and tell how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(files - _OWN_FILES, files // 4)


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request whose request line and headers do not come to an end, and all that come on too many connections."""

    _in_head = True
    _head_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn's own refusal is plain text, without a time to come again.
        self._most, self.limit_concurrency = self.limit_concurrency, None

    def on_message_begin(self) -> None:
        """The first byte of a request is here. What else came with it is not counted: it may be the end of the one before."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._most is not None and len(self.connections) > self._most:
            self.app = self._full
        super().on_headers_complete()

    async def _full(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(HTTPConnection(scope), ServerFull(len(self.connections), self._most or 0))(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        going_on = self._in_head
        super().data_received(data)
        if going_on and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of this request is too long.")
