"""Requests over a Unix socket with nothing in between: a tenth of what a general client takes for a small one."""

from __future__ import annotations

import http.client
import queue
import socket
from pathlib import Path

import httpx


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("engine", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class UnixHttp:
    """Connections to one socket, kept open between requests. Any thread may ask."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._free: queue.SimpleQueue[_Connection] = queue.SimpleQueue()

    def post(self, path: str, body: bytes) -> httpx.Response:
        """Send JSON that may be sent twice, and read the whole answer. Raises: httpx.TransportError."""
        while True:
            kept = self._kept()
            connection = kept or _Connection(self._path, self._timeout_s)
            try:
                connection.request("POST", path, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is not None:  # a server closes what was idle for a while
                    continue
                raise httpx.TransportError(f"the engine's connection broke: {type(error).__name__}") from error
            self._free.put(connection)
            return httpx.Response(answer.status, headers=answer.getheaders(), content=data)

    def _kept(self) -> _Connection | None:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Close what is not in use."""
        while not self._free.empty():
            self._free.get_nowait().close()
