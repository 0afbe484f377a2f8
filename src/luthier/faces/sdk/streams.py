"""Server-sent events, as the standard reads them: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.errors import ClientError

if TYPE_CHECKING:
    import httpx

_MOST_CHARACTERS = 8 * 1024 * 1024


@dataclass(frozen=True)
class ServerEvent:
    """One message of a stream."""

    data: str
    event: str = "message"
    id: str | None = None


async def server_events(response: httpx.Response) -> AsyncGenerator[ServerEvent]:
    """The messages, each as soon as it is whole; one that was cut off is not given. Raises: ClientError for another type."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        raise ClientError("What answered is no event stream.", hint="Check LUTHIER_API_URL, and any proxy before the server.")
    data: list[str] = []
    name, last_id, size = "", None, 0
    async for line in _lines(response):
        if not line:
            if data:
                yield ServerEvent("\n".join(data), name or "message", last_id)
            data, name, size = [], "", 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            size += len(value)
            _check(size)
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value


async def _lines(response: httpx.Response) -> AsyncGenerator[str]:
    # Not `aiter_lines`: it also breaks at U+2028 and the like, which JSON text may hold. The server ends lines with \n.
    rest = b""
    async for chunk in response.aiter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
        _check(len(rest))
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def _check(size: int) -> None:
    if size > _MOST_CHARACTERS:
        raise ClientError("One event of the stream is larger than any that Luthier sends.", hint="Check LUTHIER_API_URL.")
