"""Datasets that are fetched instead of sent: from a hub of datasets, from a bucket, or from an address on the internet.

Bytes are passed on as they come, into the same path as an upload's; nothing here reads them.
"""

from __future__ import annotations

from luthier.accounts.types import Actor
from luthier.datasets.service import Datasets
from luthier.datasets.sources import Import, Sources, not_fetched
from luthier.datasets.types import Dataset, Room, Upload
from luthier.seams import Fetcher, NotFetched


class Imports:
    """Fetches datasets."""

    def __init__(self, datasets: Datasets, fetcher: Fetcher, sources: Sources, room: Room) -> None:
        self._datasets = datasets
        self._fetcher = fetcher
        self._sources = sources
        self._room = room

    def take(self, actor: Actor, wanted: Import) -> Dataset:
        """Fetch a file and keep it as the next version of its name. Nothing is left of one that is refused.

        Raises: Invalid `source` for what cannot or may not be fetched, and what `Datasets.upload` raises.
        """
        found = self._sources.find(actor.tenant_id, wanted)
        errand = found.errand
        try:
            with self._fetcher.fetch(errand.url, max_bytes=self._room.max_upload_bytes, redirects=errand.redirects) as file:
                upload = Upload(
                    chunks=file.chunks,
                    name=wanted.name,
                    file_name=found.file_name,
                    base_model=wanted.base_model,
                    against=wanted.against,
                    drop_bad_rows=wanted.drop_bad_rows,
                    mapping=wanted.map,
                    origin=found.origin,
                )
                return self._datasets.upload(actor, upload)
        except NotFetched as error:
            raise not_fetched(error) from None
