"""Answers that go on for a while: they end, and free what they hold, as soon as the reader has gone."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from luthier.errors import RangeInvalid

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)
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


def file_answer(request: Request, file: BinaryIO, *, size: int, name: str, tag: str) -> Response:
    """An open file as an attachment, or the one range of it that the request asks for; closed after. Raises: RangeInvalid."""
    headers = {"accept-ranges": "bytes", "etag": f'"{tag}"', "content-disposition": attachment(name)}
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", headers["etag"]) != headers["etag"]:
        wanted = None
    try:
        first, last = (0, size - 1) if wanted is None else _range(wanted, size)
    except RangeInvalid:
        file.close()
        raise
    headers["content-length"] = str(last - first + 1)
    if wanted is not None:
        headers["content-range"] = f"bytes {first}-{last}/{size}"
    chunks = in_thread(_read(file, first, last - first + 1))
    return Stream(chunks, status=200 if wanted is None else 206, media_type="application/octet-stream", headers=headers)


def _range(text: str, size: int) -> tuple[int, int]:
    """First and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n`. Many ranges are not served: they cost more than they help."""
    match = _RANGE.fullmatch(text.strip()) if len(text) <= 64 else None
    if match is None:
        raise _outside(size)
    start, end, tail = match.groups()
    first = max(0, size - int(tail)) if tail else int(start)
    last = size - 1 if tail or not end else min(int(end), size - 1)
    if first >= size or last < first:
        raise _outside(size)
    return first, last


def _outside(size: int) -> RangeInvalid:
    return RangeInvalid(
        f"This range cannot be served; the file has {size:,} bytes.",
        hint="Ask for one range inside the file, e.g. `bytes=0-1023`, or for the whole file.",
        details={"bytes": size},
    )


def _read(file: BinaryIO, first: int, count: int) -> Generator[bytes]:
    with file:
        file.seek(first)
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
