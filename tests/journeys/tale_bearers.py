"""Services that repeat in their refusals whatever they are told, as real ones do: `Incorrect API key provided: sk-...`."""

from __future__ import annotations

import base64
import contextlib
import re
import socketserver
import threading

_BASIC = re.compile(rb"(?i)basic ([a-z0-9+/=]+)")


class TaleBearer(socketserver.ThreadingTCPServer):
    """A server on a free port. `heard` is all that it was told, with what was in base64 beside it in clear."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, speaks: type[socketserver.StreamRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), speaks)
        self.port = self.server_address[1]
        self.heard = b""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def told(self, said: bytes) -> bytes:
        said += b"".join(b" " + base64.b64decode(each) for each in _BASIC.findall(said))
        self.heard += said + b"\n"
        return said

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Patient(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.converse()


class Web(_Patient):
    """HTTP, which answers 500; Redis' own protocol too, since there too the client speaks first."""

    def converse(self) -> None:
        while first := self.rfile.readline():
            self._redis(first) if first.startswith(b"*") else self._http(first)

    def _redis(self, first: bytes) -> None:
        words = []
        for _ in range(int(first[1:])):
            size = int(self.rfile.readline()[1:])
            words.append(self.rfile.read(size + 2)[:size])
        self.wfile.write(b"-WRONGPASS of " + self.server.told(b" ".join(words)).replace(b"\r\n", b" ") + b"\r\n")

    def _http(self, first: bytes) -> None:
        head, length = [first], 0
        while (line := self.rfile.readline()).strip():
            head.append(line)
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        said = self.server.told(b"".join(head) + self.rfile.read(length))
        self.wfile.write(b"HTTP/1.1 500 no\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))


class Mail(_Patient):
    """SMTP, which refuses each login."""

    def converse(self) -> None:
        self.wfile.write(b"220 tell me\r\n")
        while line := self.rfile.readline():
            if line.upper().startswith(b"EHLO"):
                self.wfile.write(b"250-tell me\r\n250 AUTH PLAIN\r\n")
            elif line.upper().startswith(b"AUTH PLAIN"):
                said = self.server.told(base64.b64decode(line.split()[2]).replace(b"\0", b" "))
                self.wfile.write(b"535 it is not " + said + b"\r\n")
            else:
                self.wfile.write(b"221 bye\r\n")
                return
