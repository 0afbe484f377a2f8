"""One fetcher for all addresses: which backend brings a file is said by what its address begins with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from luthier.seams import Fetched, Fetcher, NotFetched


class BySchemeFetcher:
    """Asks the fetcher of the address's scheme."""

    def __init__(self, fetchers: Mapping[str, Fetcher]) -> None:
        self._fetchers = fetchers

    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> AbstractContextManager[Fetched]:
        """A file, by the fetcher of its scheme. Raises: NotFetched, also where there is none."""
        fetcher = self._fetchers.get(url.partition("://")[0])
        if fetcher is None:
            raise NotFetched("nothing here fetches such an address")
        return fetcher.fetch(url, max_bytes=max_bytes, redirects=redirects)
