"""A server on loopback that says what the test tells it to say, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from luthier import Client
from luthier.faces.sdk.transport import Retry

KEY = "lk_test"
MODEL = "model_01kagz3vqdfyxtqn4w5b9zn8r2"


@dataclass
class Reply:
    """One answer. `cut`: say that `cut` bytes more will come, then hang up."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    deaf: bool = False
    """Hang up without any answer."""


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def as_json(value, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


def refused(status: int, code: str, message: str = "No.", **more) -> Reply:
    facts = {"message": message, "type": "x", "code": code, "param": None, "hint": None, "details": None, "request_id": "req_1"}
    return as_json({"error": {**facts, **more}}, status)


def sse(*events: tuple[str | None, str, object], cut: int = 0) -> Reply:
    text = "retry: 2000\n\n: still here\n\n"
    for event_id, name, data in events:
        text += (f"id: {event_id}\n" if event_id else "") + f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    return Reply(body=text.encode(), headers={"content-type": "text/event-stream"}, cut=cut)


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        # A client that hangs up in the middle is what some tests are about.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeServer:
    """`server.say("GET /api/jobs", reply, reply)`: the replies in turn; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._replies: dict[str, list[Reply]] = {}
        self._http = _Http(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def say(self, route: str, *replies: Reply) -> None:
        self._replies[route] = list(replies)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def next_reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        replies = self._replies.get(f"{asked.method} {asked.path}")
        if not replies:
            return refused(404, "not_found", "No such route.")
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, self._body(headers))
                self._say(server.next_reply(asked))

            do_POST = do_DELETE = do_GET

            def _body(self, headers: dict[str, str]) -> bytes:
                if headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(headers.get("content-length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _say(self, reply: Reply) -> None:
                self.close_connection = True
                if reply.deaf:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(reply.status)
                for name, value in {"connection": "close", **reply.headers}.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("content-length", str(len(reply.body) + reply.cut))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def retry(pauses) -> Retry:
    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    return Retry(pause=pause)


@pytest.fixture
def client(server, retry):
    with Client(base_url=server.url, api_key=KEY, timeout_s=10, retry=retry) as made:
        yield made
