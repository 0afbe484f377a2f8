"""Uploads and imports by `Idempotency-Key`: the same key with the same request gives the dataset that it gave before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from luthier import ids
from luthier.accounts.types import Actor, Idempotency
from luthier.datasets.sources import Import
from luthier.datasets.types import Dataset, Upload
from luthier.errors import KeyReused
from luthier.faces.rest.wire import idempotency

if TYPE_CHECKING:
    from luthier.wiring import Platform


@dataclass(frozen=True)
class Taken:
    """The dataset of a request, and whether an earlier request made it."""

    dataset: Dataset
    replayed: bool


def take_once(platform: Platform, actor: Actor, key: str | None, upload: Upload) -> Taken:
    """Upload, once for each key. A repetition is read and compared, and not stored again; a refused upload leaves its key free.

    Raises: what `Datasets.upload` raises; KeyReused, KeyInFlight; Gone where the dataset was deleted since.
    """
    if key is None:
        return Taken(platform.datasets.upload(actor, upload), replayed=False)
    with platform.accounts.in_flight(actor, key):
        earlier = platform.accounts.made_with(actor, key)
        if earlier is not None:
            return _compared(platform, actor, key, upload, earlier)
        seen = _Seen(upload.chunks)
        made = platform.datasets.upload(actor, replace(upload, chunks=seen))
        return _kept(platform, actor, Idempotency(key, _request_sha256(upload, seen)), made)


def import_once(platform: Platform, actor: Actor, key: str | None, wanted: Import) -> Taken:
    """Import, once for each key. A repetition fetches nothing: it gives the dataset as it is by now, even if that broke off.

    Raises: what `Imports.take` raises, which leaves the key free; KeyReused, KeyInFlight; Gone.
    """
    asked = idempotency(key, wanted)
    if asked is None:
        return Taken(platform.imports.take(actor, wanted), replayed=False)
    with platform.accounts.in_flight(actor, key):
        earlier = platform.accounts.made_with(actor, asked.key)
        if earlier is None:
            return _kept(platform, actor, asked, platform.imports.take(actor, wanted))
        return Taken(platform.datasets.get(actor, platform.accounts.keep(actor, asked, earlier)), replayed=True)


def _kept(platform: Platform, actor: Actor, asked: Idempotency, made: Dataset) -> Taken:
    try:
        kept = platform.accounts.keep(actor, asked, made.id)
    except KeyReused:
        platform.datasets.delete(actor, made.id)
        raise
    if kept == made.id:
        return Taken(made, replayed=False)
    # Another process took the same request in meanwhile; its dataset is the one.
    platform.datasets.delete(actor, made.id)
    return Taken(platform.datasets.get(actor, kept), replayed=True)


class _Seen(Iterable[bytes]):
    """Chunks that pass through, counted and hashed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes += len(chunk)
            self._digest.update(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _compared(platform: Platform, actor: Actor, key: str, upload: Upload, earlier: str) -> Taken:
    if not ids.is_id(earlier, ids.DATASET):
        raise KeyReused
    dataset = platform.datasets.get(actor, earlier)
    seen = _Seen(upload.chunks)
    for _ in seen:
        if seen.bytes > dataset.bytes:  # whatever else comes, these are other bytes
            raise KeyReused
    platform.accounts.keep(actor, Idempotency(key, _request_sha256(upload, seen)), earlier)
    return Taken(dataset, replayed=True)


def _request_sha256(upload: Upload, seen: _Seen) -> str:
    name = upload.name if upload.name is not None else upload.file_name
    asked = ["upload", name, upload.base_model, seen.sha256]
    if upload.against or upload.drop_bad_rows:  # keys of earlier releases were kept without these
        asked += [sorted(upload.against), upload.drop_bad_rows]
    if upload.mapping is not None:
        asked += [upload.mapping]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
