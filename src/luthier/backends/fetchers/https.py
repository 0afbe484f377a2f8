"""Files from https, through the guarded way out."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from urllib.parse import urljoin

from luthier.backends.outbound import Guard, NotReached, Outbound
from luthier.seams import Fetched, NotFetched

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 256 * 1024


class HttpsFetcher:
    """Fetches one file at a time; safe in threads."""

    def __init__(self, guard: Guard | None = None) -> None:
        self._outbound = Outbound(guard or Guard())

    @contextmanager
    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> Generator[Fetched]:
        """The body of a GET. Raises: NotFetched, also on the way."""
        try:
            with self._found(url, redirects) as response:
                yield _fetched(response, max_bytes)
        except NotReached as error:
            raise NotFetched(str(error)) from None

    @contextmanager
    def _found(self, url: str, redirects: int) -> Generator[HTTPResponse]:
        while True:
            with self._outbound.asked("GET", url, headers={}) as response:
                location = response.getheader("location") if response.status in _REDIRECTS else None
                if response.status == 200:
                    yield response
                    return
                if location is None or redirects == 0:
                    raise NotFetched(_refused(response.status))
            url, redirects = urljoin(url, location), redirects - 1


def _fetched(response: HTTPResponse, max_bytes: int) -> Fetched:
    text = response.getheader("content-length", "")
    declared = int(text[:20]) if text.isascii() and text.isdigit() else None
    if declared is not None and declared > max_bytes:
        raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
    return Fetched(declared, _pieces(response, declared, max_bytes))


def _pieces(response: HTTPResponse, declared: int | None, max_bytes: int) -> Iterator[bytes]:
    size = 0
    while chunk := response.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
        yield chunk
    if declared is not None and size != declared:
        raise NotFetched("the connection broke off before the end")


def _refused(status: int) -> str:
    if status in _REDIRECTS:
        return "the server redirects, and redirects are not followed"
    return f"the server answered with status {status}"
