"""HTTP on the wire: uvicorn's fast parser, with an end to what it takes in."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEAD_BYTES = 64 * 1024
"""As uvicorn's other parser has it. httptools keeps what comes for as long as it comes: one connection could fill the memory."""


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request whose request line and headers do not come to an end."""

    _in_head = True
    _head_bytes = 0

    def on_message_begin(self) -> None:
        """The first byte of a request is here. What else came with it is not counted: it may be the end of the one before."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        going_on = self._in_head
        super().data_received(data)
        if going_on and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of this request is too long.")
