"""Many connections at once, each with one request: opened first, and then sent all in the same moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back, and after how long."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    at: float = field(default_factory=time.monotonic)


async def ask(address: tuple[str, int], request: bytes, go: asyncio.Event | None = None) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*address)
    if go is not None:
        await go.wait()
    begun = time.monotonic()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    took = time.monotonic() - begun
    writer.close()
    return Answer(int(head[0].split()[1]), headers, body, took)


def request(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    kind = "content-type: application/json\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{kind}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 80)


async def burst(url: str, requests: Sequence[bytes], on_answer: Callable[[int], None]) -> list[Answer]:
    """All of them at once; `on_answer` is told how many have been answered."""
    address, go, found = address_of(url), asyncio.Event(), list[Answer]()

    async def one(each: bytes) -> None:
        found.append(await ask(address, each, go))
        on_answer(len(found))

    async with asyncio.TaskGroup() as group:
        for each in requests:
            group.create_task(one(each))
        await asyncio.sleep(0.5)  # the backlog of the listener: connections that are there before the first byte
        go.set()
    return found
