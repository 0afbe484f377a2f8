"""Answers that go on for a while: they end, and free what they hold, as soon as the reader has gone."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from luthier.errors import RangeInvalid
from luthier.faces.rest import ranges

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_HEADER = 4096
_HEADER_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_DONE = object()


class Stream(Response):
    """A response made of chunks. Whatever ends it (the last chunk, a hang-up, an error), the generator is closed."""

    def __init__(
        self, chunks: AsyncGenerator[bytes], *, status: int = 200, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status_code=status, media_type=media_type, headers=headers)
        if "content-length" not in (headers or {}):
            del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        # Begun before anybody can hang up: a generator that was never begun has no `finally` to run.
        first = await anext(self._chunks, None)
        try:
            async with anyio.create_task_group() as tasks, aclosing(self._chunks):
                tasks.start_soon(until_hang_up, receive, tasks.cancel_scope)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if first is not None:
                    await send({"type": "http.response.body", "body": first, "more_body": True})
                async for chunk in self._chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                tasks.cancel_scope.cancel()
        except* OSError:
            pass  # the reader has gone: nobody is left to be told


async def in_thread(iterator: Iterator[T], limiter: anyio.CapacityLimiter | None = None) -> AsyncGenerator[T]:
    """The items of a synchronous iterator, each fetched in a worker thread; closed there too."""
    try:
        while True:
            item: Any = await anyio.to_thread.run_sync(next, iterator, _DONE, limiter=limiter)
            if item is _DONE:
                return
            yield item
    finally:
        await close_in_thread(iterator, limiter)


async def close_in_thread(iterator: Iterator[Any], limiter: anyio.CapacityLimiter | None = None) -> None:
    """Close a synchronous generator, even where the task that asks is being cancelled; a second call does nothing."""
    close = getattr(iterator, "close", None)
    if close is not None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(close, limiter=limiter)


def attachment(name: str) -> str:
    """A `Content-Disposition` for any name at all (RFC 6266): a plain spelling, and the exact one percent-encoded.

    >>> attachment("adapter.tar")
    'attachment; filename="adapter.tar"'
    """
    if _HEADER_SAFE.fullmatch(name):
        return f'attachment; filename="{name}"'
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].lstrip(".") or "download"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name[:255], safe='')}"


@dataclass(frozen=True)
class Opened:
    """A stored file that is about to be sent."""

    stream: BinaryIO
    size: int
    name: str
    tag: str
    """Changes whenever a byte does; where it is a sha256, it is told as the checksum of the whole."""
    media_type: str = "application/octet-stream"


def file_answer(request: Request, file: BinaryIO, *, size: int, name: str, tag: str) -> Response:
    """An open file as an attachment, or the ranges of it that the request asks for; closed after. Raises: RangeInvalid."""
    return opened_answer(request, Opened(file, size, name, tag))


def opened_answer(request: Request, opened: Opened) -> Response:
    """An open file as an attachment, or the ranges of it that the request asks for; closed after. Raises: RangeInvalid."""
    headers = {"accept-ranges": "bytes", "etag": f'"{opened.tag}"', "content-disposition": attachment(opened.name)}
    if _SHA256.fullmatch(opened.tag):
        # RFC 9530: of the whole file, also where only a part of it is sent.
        headers["repr-digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(opened.tag)).decode()}:"
    if headers["etag"] in re.findall(r'"[^"]*"', request.headers.get("if-none-match", "")[:_MOST_HEADER]):
        opened.stream.close()
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        wanted = None
    try:
        spans = None if wanted is None else ranges.of(wanted, opened.size)
    except ranges.NotARange:
        opened.stream.close()
        raise _outside(opened.size) from None
    media_type, pieces = opened.media_type, ranges.whole(opened.size)
    if spans is not None and len(spans) == 1:
        headers["content-range"] = f"bytes {spans[0].first}-{spans[0].last}/{opened.size}"
        pieces = ranges.plain(spans[0])
    elif spans is not None:
        boundary = secrets.token_hex(12)
        pieces = ranges.multipart(spans, opened.size, opened.media_type, boundary)
        media_type = f"multipart/byteranges; boundary={boundary}"
    headers["content-length"] = str(sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces))
    chunks = in_thread(_read(opened.stream, pieces))
    return Stream(chunks, status=200 if spans is None else 206, media_type=media_type, headers=headers)


def _outside(size: int) -> RangeInvalid:
    return RangeInvalid(
        f"This range cannot be served; the file has {size:,} bytes.",
        hint=f"Ask for at most {ranges.MOST} ranges inside the file, e.g. `bytes=0-1023`, or for the whole file.",
        details={"bytes": size},
    )


def _read(file: BinaryIO, pieces: Sequence[bytes | ranges.Span]) -> Generator[bytes]:
    with file:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            file.seek(piece.first)
            count = piece.size
            while count > 0:
                chunk = file.read(min(CHUNK_BYTES, count))
                if not chunk:
                    raise OSError("a stored file is shorter than its record says")
                count -= len(chunk)
                yield chunk


async def until_hang_up(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait for the reader to go, then cancel what is done for them."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
