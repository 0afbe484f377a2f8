"""The parser takes in a head of a limited size, and a body of any."""

import socket
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


@pytest.fixture(scope="module")
def address():
    server = uvicorn.Server(uvicorn.Config(lengths, http=BoundedHttp, log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


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
