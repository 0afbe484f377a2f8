"""Uploads: bytes go from the socket to the service as they come, however many they are. No body is ever held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from luthier.accounts.quotas import Quota
from luthier.accounts.types import Actor
from luthier.datasets.types import Upload
from luthier.errors import BadRequest, LuthierError, TooLarge, UnsupportedType
from luthier.faces.rest.body import media_type, refuse_encoding
from luthier.faces.rest.forms import Check, Form
from luthier.faces.rest.repeats import Taken, take_once

if TYPE_CHECKING:
    from luthier.wiring import Platform

T = TypeVar("T")
_AT_ONCE = 16
_FORM_BYTES = 1024 * 1024
"""What a form may add around its file."""


class Receiver:
    """Takes uploads for one app. Each holds a thread, and its client may be slow: so they have a limit of their own."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def take(
        self, request: Request, actor: Actor, query: Upload, key: str | None, checks: Mapping[str, Check] | None = None
    ) -> Taken:
        """The dataset of this body: the file itself, or a form with a part `file`. `query` has what the query string gave.

        With `checks` it must be a form, as `Form` says.
        Raises: what `take_once` raises; BadRequest, TooLarge, UnsupportedType for bodies that cannot be read.
        """
        refuse_encoding(request)
        self._check_size(request)
        kind = media_type(request)
        boundary = kind.get_param("boundary") if kind.get_content_type() == "multipart/form-data" else None
        if not boundary and (checks or kind.get_content_maintype() == "multipart"):
            raise _not_a_form(kind.get_content_type())
        chunks = request.stream()
        expected = _declared(request)

        def work() -> Taken:
            self._platform.quotas.room_for(actor.tenant_id, Quota.STORAGE_BYTES, expected or 0)
            body = _pulled(chunks, expected)
            upload = Form(str(boundary), body, checks).upload(query) if boundary else replace(query, chunks=body)
            return take_once(self._platform, actor, key, upload)

        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    async def pass_on(self, request: Request, take: Callable[[int | None, Iterator[bytes]], T]) -> T:
        """`take` in a thread, with the size that the body says it has and its chunks as they come."""
        chunks, expected = request.stream(), _declared(request)
        return await anyio.to_thread.run_sync(lambda: take(expected, _pulled(chunks, expected)), limiter=self._limiter)

    def _check_size(self, request: Request) -> None:
        most, declared = self._platform.settings.max_upload_bytes + _FORM_BYTES, _declared(request)
        if declared is not None and declared > most:
            # Before the body: a client that waits for `100 Continue` never sends it.
            raise TooLarge(
                f"The file is larger than {self._platform.settings.max_upload_bytes:,} bytes.",
                hint="Split it, or ask your admin to raise LUTHIER_MAX_UPLOAD_BYTES.",
                param="file",
            )


def _not_a_form(kind: str) -> LuthierError:
    hint = "Send the file as the body, or `multipart/form-data` with its boundary."
    if kind == "multipart/form-data":
        return BadRequest("The Content-Type of the form names no boundary.", hint=hint)
    return UnsupportedType("The body is a multipart message, but no form.", hint=hint)


def _declared(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text[:20]) if text.isascii() and text.isdigit() else None


def _pulled(chunks: AsyncIterator[bytes], expected: int | None) -> Iterator[bytes]:
    """In the worker thread: the next chunk is asked for when the one before is written, so nothing piles up."""
    size = 0
    while (chunk := anyio.from_thread.run(_next, chunks)) is not None:
        size += len(chunk)
        if chunk:
            yield chunk
    if expected is not None and size != expected:
        raise BadRequest(f"{expected:,} bytes were announced, but {size:,} came.", hint="Send the file again.")


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(chunks, None)
    except ClientDisconnect:
        raise BadRequest("The connection broke off before the end of the body.", hint="Send the file again.") from None
