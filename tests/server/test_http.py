"""The parser takes in a head of a limited size, and a body of any."""

import contextlib
import json
import socket
import subprocess
import sys
import threading

import pytest
import uvicorn

from luthier.server.http import BoundedHttp


async def lengths(_scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def served(most=None):
    config = uvicorn.Config(lengths, http=BoundedHttp, log_level="critical", lifespan="off", limit_concurrency=most)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address():
    with served() as found:
        yield found


@pytest.fixture
def wire(address):
    with socket.create_connection(address) as client:
        client.settimeout(20)
        yield client


def heard(wire):
    """All that comes until the end of the connection, or of an answer of one digit or more."""
    data = b""
    while chunk := wire.recv(65_536):
        data += chunk
        if data.startswith(b"HTTP/1.1 200") and data.rpartition(b"\r\n\r\n")[2]:
            break
    return data


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ", b"GET /?", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_an_end_is_refused(wire, start):
    wire.sendall(start)
    piece = b"a" * 8000 if start[-2:] != b"\r\n" else b"x-more: b\r\n" * 800

    def go_on():
        for _ in range(10_000):
            wire.sendall(piece)

    with pytest.raises(ConnectionError):
        go_on()


def test_a_head_that_is_too_long_is_told_so(wire):
    wire.sendall(b"GET / HTTP/1.1\r\nx-long: " + b"a" * 70_000)
    assert heard(wire).startswith(b"HTTP/1.1 400")


def test_a_long_body_behind_a_long_head_is_taken_and_so_is_the_next_request(wire):
    for _ in range(2):
        head = b"POST / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 40_000 + b"\r\ncontent-length: 500000\r\n\r\n"
        wire.sendall(head + b"b" * 500_000)
        assert heard(wire).endswith(b"\r\n\r\n500000")


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def test_one_connection_too_many_is_told_to_come_again():
    with served(most=2) as address, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(socket.create_connection(address, 20)) for _ in range(3))
        for wire in (first, second):
            wire.sendall(GET[:10])  # what came before it is there
        third.sendall(GET)
        head, _, body = heard(third).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in head
        assert b"connection: close" in head
        assert json.loads(body)["error"]["code"] == "server_full"
        assert json.loads(body)["error"]["message"] == "3 connections are open; there is room for 2."
        first.sendall(GET[10:])
        assert heard(first).startswith(b"HTTP/1.1 200"), "those that were there are served on"


def room(soft, hard):
    """What a process with these limits has room for, and its limit afterwards."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "from luthier.server.http import room_for_connections as room;"
        "print(room(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    return tuple(map(int, subprocess.check_output([sys.executable, "-c", code]).split()))


def test_room_is_what_open_files_leave():
    assert room(256, 1024) == (768, 1024)
    assert room(128, 300) == (75, 300)
