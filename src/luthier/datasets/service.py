"""Datasets: what a face may call. The bodies follow in the next commits; names and signatures stay."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.bases.types import Base
from luthier.database import Database
from luthier.datasets.types import Dataset, Room, Upload
from luthier.seams import Clock, Storage
from luthier.values import Page, Source


class KnowsBases(Protocol):
    """What datasets need of `bases.service.Bases`."""

    def get(self, base_id: str) -> Base: ...

    def tokenizer_folder(self, base: Base) -> Path | None: ...


class Datasets:
    """Upload, list, show, delete, and what jobs need of a dataset."""

    def __init__(self, database: Database, storage: Storage, bases: KnowsBases, room: Room, now: Clock) -> None:
        self._database = database
        self._storage = storage
        self._bases = bases
        self._room = room
        self._now = now

    def upload(self, actor: Actor, upload: Upload) -> Dataset:
        """Take a file in, check it, and make the next version of its name. Nothing is left of one that is refused.

        Up to `inline_upload_bytes` the answer holds the report and the state is `ready`; a larger file answers `validating`
        and is checked in the background.

        Raises: TooLarge (also a line over 1 MiB), DatasetRejected (code = first finding's, details = the report),
        FieldInvalid (name, sha256, base_model), Invalid `checksum_mismatch`.
        """
        raise NotImplementedError

    def list(self, actor: Actor, *, after: str | None = None, limit: int = 20) -> Page[Dataset]:
        """The tenant's datasets that are ready or on their way, newest first. Raises: CursorInvalid."""
        raise NotImplementedError

    def get(self, actor: Actor, dataset_id: str) -> Dataset:
        """One dataset in any state but deleted. Raises: NotFound, Gone."""
        raise NotImplementedError

    def ready(self, actor: Actor, dataset_id: str) -> Dataset:
        """One dataset that can be trained on. Raises: NotFound, Gone, DatasetNotReady."""
        raise NotImplementedError

    def delete(self, actor: Actor, dataset_id: str) -> None:
        """Remove the files and remember only that it was there. Raises: NotFound, Gone, InUse."""
        raise NotImplementedError

    def open(self, actor: Actor, dataset_id: str) -> BinaryIO:
        """The file as it was uploaded. Raises: NotFound, Gone."""
        raise NotImplementedError

    def source(self, dataset: Dataset) -> Source:
        """What a trainer reads: url and sha256 of the canonical rows. Raises: DatasetNotReady."""
        raise NotImplementedError

    def use(self, session: Session, actor: Actor, dataset_id: str, by: str) -> None:
        """Keep a dataset from being deleted, in the transaction that makes its user `by` (a job or model id); twice is once.

        Raises: NotFound, Gone, DatasetNotReady.
        """
        raise NotImplementedError

    def release(self, session: Session, by: str) -> None:
        """Let go of all that `by` uses. Fine if it uses nothing."""
        raise NotImplementedError

    def recover(self) -> None:
        """At the start of the server: go on with what a crash cut short (validations, deletions), clear litter."""
        raise NotImplementedError

    def close(self) -> None:
        """End the background validation; what is unfinished is taken up by the next `recover`."""
        raise NotImplementedError
