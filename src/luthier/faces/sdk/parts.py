"""Large files on their way out, in parts: what broke off goes on where it ended, also when the command is called again."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from luthier.errors import ClientError, LuthierError, OffsetMismatch
from luthier.faces.sdk.files import Outgoing
from luthier.faces.sdk.transport import Call, Transport, worth_another

FROM_BYTES = 16 * 1024 * 1024
"""Smaller files are sent in one request: they are sent again as fast."""
_PART_BYTES = 64 * 1024 * 1024
_WORK_S = 600.0
"""The server reads the whole file once more before it answers."""


@dataclass(frozen=True)
class _Place:
    route: str
    offset: int


async def send_in_parts(transport: Transport, file: Outgoing, wishes: Mapping[str, str | None]) -> dict[str, Any]:
    """Send a hashed file, and give the dataset that was made of it.

    Raises: what the server refuses; Lost where the connection breaks again and again without a byte in between.
    """
    size = file.size or 0
    place = await _begun(transport, size, wishes)
    failures = 0
    while place.offset < size:
        try:
            sent = await _sent(transport, file, place, min(_PART_BYTES, size - place.offset))
        except LuthierError as error:
            if not isinstance(error, OffsetMismatch) and not worth_another(error, again=True):
                raise
            failures += 1
            if failures > transport.retry.follow_attempts:
                raise
            await transport.retry.wait(min(failures, 8), getattr(error, "retry_after_s", None))
            sent = await _asked(transport, place.route)
        failures = 0 if sent > place.offset else failures
        place = _Place(place.route, sent)
    file.sent_sha256 = file.sha256
    return await transport.json(Call("POST", f"{place.route}/dataset", again=True, work_s=_WORK_S))


async def _begun(transport: Transport, size: int, wishes: Mapping[str, str | None]) -> _Place:
    metadata = ",".join(f"{name} {_coded(value)}" for name, value in wishes.items() if value)
    headers = {"upload-length": str(size), "upload-metadata": metadata}
    upload = await transport.json(Call("POST", "/api/uploads", headers=headers, again=True))
    return _Place(f"/api/uploads/{upload.get('id')}", int(upload.get("offset", 0)))


async def _sent(transport: Transport, file: Outgoing, place: _Place, size: int) -> int:
    headers = {
        "upload-offset": str(place.offset),
        "content-type": "application/offset+octet-stream",
        "content-length": str(size),
    }
    call = Call("PATCH", place.route, headers=headers, content=partial(file.part, place.offset, size))
    async with transport.open(call) as response:
        return _offset(response.headers)


async def _asked(transport: Transport, route: str) -> int:
    async def once() -> int:
        async with transport.open(Call("HEAD", route)) as response:
            return _offset(response.headers)

    return await transport.tried(once, again=True)


def _offset(headers: Mapping[str, str]) -> int:
    text = headers.get("upload-offset", "")
    if not (text.isascii() and text.isdigit()):
        raise ClientError("The server does not say how many bytes it has.", hint="Is there a proxy in between?")
    return int(text[:20])


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
