"""Requests that arrive when they are due, whether or not the earlier ones were answered (an open loop).

A client that waits for each answer before it asks again goes slow with the server and hides what its users would have waited
for. Here each request has a due time of its own (gaps of a Poisson process), and its latency counts from that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

_MOST_CONNECTIONS = 256


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def raw(self, host: str) -> bytes:
        heads = (("host", host), ("content-length", str(len(self.body))), *self.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in heads)
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body


@dataclass
class Answers:
    """What came back: milliseconds from due to answered, and statuses."""

    rate: float
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list[float])
    statuses: Counter[int] = field(default_factory=Counter[int])
    connections: int = 0

    def figures(self) -> dict[str, object]:
        """For the record."""
        cuts = statistics.quantiles(self.latencies_ms, n=1000)
        return {
            "due_per_s": self.rate,
            "answered_per_s": round(len(self.latencies_ms) / self.seconds, 1),
            "p50_ms": round(cuts[499], 1),
            "p95_ms": round(cuts[949], 1),
            "p99_ms": round(cuts[989], 1),
            "most_ms": round(max(self.latencies_ms), 1),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "connections": self.connections,
        }


class Connections:
    """Kept open, and used by one request at a time; more are opened while all are busy."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
        self.count = 0

    async def ask(self, raw: bytes) -> int:
        """The status of the answer, once all of it is here."""
        reader, writer = await self._open()
        writer.write(raw)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            # The server ended it in this very moment, for having been idle: any client asks once more.
            self.count -= 1
            return await self.ask(raw)
        low = head.lower()
        if (at := low.find(b"content-length:")) >= 0:
            await reader.readexactly(int(low[at + 15 : low.index(b"\r\n", at)]))
        self._free.put_nowait((reader, writer))
        return int(head[9:12])

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while not self._free.empty() or self.count >= _MOST_CONNECTIONS:
            reader, writer = await self._free.get()
            if not reader.at_eof():
                return reader, writer
            self.count -= 1
        self.count += 1
        return await asyncio.open_connection(self._host, self._port)


async def _arrive(host: str, port: int, asks: Sequence[Ask], rate: float) -> Answers:
    answers, connections, gaps = Answers(rate), Connections(host, port), random.Random(3)
    loop = asyncio.get_running_loop()
    began = due = loop.time()

    async def one(raw: bytes, due: float) -> None:
        status = await connections.ask(raw)
        answers.latencies_ms.append((loop.time() - due) * 1000)
        answers.statuses[status] += 1

    tasks: list[asyncio.Task[None]] = []
    for ask in asks:
        due += gaps.expovariate(rate)
        raw = ask.raw(f"{host}:{port}")
        if (ahead := due - loop.time()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(one(raw, due)))
    await asyncio.gather(*tasks)
    answers.seconds, answers.connections = loop.time() - began, connections.count
    return answers


def arrive(address: tuple[str, int], rate: float, seconds: float, ask: Callable[[int], Ask]) -> Answers:
    """The answers to so many requests a second for so long; `ask` makes the request of each number."""
    asks = [ask(number) for number in range(int(rate * seconds))]
    with _uncollected():
        return asyncio.run(_arrive(*address, asks, rate))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector in this process: while it looks through what torch brought, answers lie unread for a quarter
    of a second, and that would be told as the server's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def most_per_s(address: tuple[str, int], seconds: float, clients: int, ask: Callable[[int], Ask]) -> float:
    """Answers a second to so many clients that each ask again as soon as they are answered: the other kind of figure."""

    async def run() -> int:
        connections, end, count = Connections(*address), time.monotonic() + seconds, 0

        async def client(number: int) -> None:
            nonlocal count
            while time.monotonic() < end:
                status = await connections.ask(ask(number).raw(f"{address[0]}:{address[1]}"))
                count += status < 400  # a refusal is no answer

        await asyncio.gather(*(client(number) for number in range(clients)))
        return count

    return round(asyncio.run(run()) / seconds, 1)
