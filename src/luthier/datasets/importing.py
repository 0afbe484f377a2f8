"""Datasets that are fetched instead of sent: from a hub of datasets, from a bucket, or from an address on the internet.

Bytes are passed on as they come, into the same path as an upload's; nothing here reads them. A small file is fetched while its
sender waits; a larger one, or one whose size is not said, in the background.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from luthier.accounts.types import Actor
from luthier.datasets.background import Background
from luthier.datasets.deliveries import Deliveries
from luthier.datasets.service import Datasets
from luthier.datasets.sources import Import, Sources, not_fetched
from luthier.datasets.types import Dataset, Room, Upload
from luthier.errors import StorageFull, TooLarge
from luthier.seams import Fetcher, NotFetched

_AT_ONCE = 4
_CLOSE_S = 5
"""A fetch that hangs longer is left behind: its thread dies with the process, and the next one begins it again."""


class Imports:
    """Fetches datasets."""

    def __init__(self, datasets: Datasets, deliveries: Deliveries, fetcher: Fetcher, sources: Sources, room: Room) -> None:
        self._datasets = datasets
        self._deliveries = deliveries
        self._fetcher = fetcher
        self._sources = sources
        self._room = room
        self._closed = threading.Event()
        self._background = Background(self._bring, threads=_AT_ONCE)

    def take(self, actor: Actor, wanted: Import) -> Dataset:
        """Fetch a file and keep it as the next version of its name, in state `ready`; or begin to, in state `validating`.

        Raises: Invalid `source` for what cannot or may not be fetched; TooMany; what `Datasets.upload` raises.
        """
        found = self._sources.find(actor.tenant_id, wanted)
        upload = Upload(
            (),
            name=wanted.name,
            file_name=found.file_name,
            base_model=wanted.base_model,
            against=wanted.against,
            drop_bad_rows=wanted.drop_bad_rows,
            mapping=wanted.map,
            origin=found.origin,
        )
        errand = found.errand
        try:
            with self._fetcher.fetch(errand.url, max_bytes=self._room.max_upload_bytes, redirects=errand.redirects) as file:
                size = file.size
                if size is not None and size <= self._room.inline_upload_bytes:
                    return self._datasets.upload(actor, replace(upload, chunks=file.chunks))
        except NotFetched as error:
            raise not_fetched(error) from None
        self._deliveries.admit(actor, size)
        dataset = self._datasets.upload(actor, replace(upload, errand=errand.model_copy(update={"bytes": size})))
        self._background.add(dataset.id)
        return dataset

    def recover(self) -> None:
        """At the start of the server: begin again what was being fetched when it ended."""
        for dataset_id in self._deliveries.awaited():
            self._background.add(dataset_id)

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being fetched. Raises: TimeoutError. For tests."""
        self._background.settle(timeout_s)

    def close(self) -> None:
        """Leave what is being fetched to the next `recover`."""
        self._closed.set()
        self._background.close(_CLOSE_S)

    def _bring(self, dataset_id: str) -> None:
        errand = self._deliveries.errand(dataset_id)
        if errand is None:
            return
        try:
            with self._fetcher.fetch(errand.url, max_bytes=self._room.max_upload_bytes, redirects=errand.redirects) as file:
                self._deliveries.deliver(dataset_id, self._until_closed(file.chunks))
        except NotFetched as error:
            self._deliveries.give_up(dataset_id, not_fetched(error))
        except (TooLarge, StorageFull) as error:
            self._deliveries.give_up(dataset_id, error)
        except _Closing:
            return

    def _until_closed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._closed.is_set():
                raise _Closing
            yield chunk


class _Closing(Exception):
    """The server ends; what is being fetched stays as it is."""
