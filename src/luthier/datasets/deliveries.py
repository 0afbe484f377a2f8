"""Datasets whose bytes are fetched in the background: what each waits for, how far it is, and what becomes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from luthier import ids
from luthier.accounts.types import Actor
from luthier.database import Database
from luthier.datasets import rows
from luthier.datasets.arrivals import receive, workspace
from luthier.datasets.places import RAW
from luthier.datasets.refusals import not_arrived
from luthier.datasets.rows import home_of
from luthier.datasets.types import Errand, Room
from luthier.datasets.wishes import Wishes
from luthier.errors import LuthierError, StorageFull, TooMany
from luthier.seams import Clock, Storage

if TYPE_CHECKING:
    from luthier.datasets.store import DatasetRow

MOST_WAITING = 16
"""Of one team."""
_TOLD_EVERY = timedelta(seconds=0.5)


class Deliveries:
    """Brings bytes to datasets that wait for them. `check` is told of each that has all."""

    def __init__(self, database: Database, storage: Storage, room: Room, now: Clock, check: Callable[[str], None]) -> None:
        self._database = database
        self._storage = storage
        self._room = room
        self._now = now
        self._check = check

    def awaited(self) -> list[str]:
        """Ids of all that wait, oldest first."""
        return [row.id for row in rows.awaited(self._database)]

    def admit(self, actor: Actor, size: int | None) -> None:
        """Whether one more of this size may wait. Raises: TooMany, of one team; StorageFull before the first byte."""
        waiting = len(rows.awaited(self._database, actor.tenant_id))
        if waiting >= MOST_WAITING:
            raise TooMany(f"Your team has {waiting} unfinished imports.", hint="Wait for one to end.", retry_after_s=60)
        self._room.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        to_come = sum((row.expected_bytes or 0) - (row.fetched_bytes or 0) for row in rows.awaited(self._database))
        if shutil.disk_usage(self._room.scratch).free < to_come + (size or 0):
            raise StorageFull

    def errand(self, dataset_id: str) -> Errand | None:
        """What is to be fetched for a dataset; None where it waits for nothing any more."""
        row = rows.awaiting(self._database, dataset_id)
        return None if row is None else Wishes.read(self._storage, home_of(row)).errand

    def deliver(self, dataset_id: str, chunks: Iterable[bytes]) -> None:
        """Take the bytes in that a dataset waits for, and have them checked. Its row says meanwhile how many are here.

        Raises: TooLarge, StorageFull, and what `chunks` raises: it goes on waiting then. One that was deleted takes nothing.
        """
        row = rows.awaiting(self._database, dataset_id)
        if row is None:
            return
        home = home_of(row)
        with workspace(self._room.scratch, ids.new(ids.DATASET)) as folder:
            try:
                arrived = receive(self._counted(row, chunks), folder, self._room.max_upload_bytes)
            except _Withdrawn:
                return
            self._storage.put_file(home + RAW, arrived.path)
            there = rows.arrived(self._database, row, arrived.bytes, arrived.sha256)
        if not there:
            self._storage.delete(home)
            return
        # After the row: whoever still finds it waiting must find its errand. From now on its address is kept nowhere.
        Wishes.read(self._storage, home).model_copy(update={"errand": None}).write(self._storage, home)
        self._check(dataset_id)

    def give_up(self, dataset_id: str, why: LuthierError) -> None:
        """Reject a dataset whose bytes cannot be had; its report says why. No list shows it, and none of its bytes is kept."""
        row = rows.awaiting(self._database, dataset_id)
        if row is not None:
            rows.not_arrived(self._database, row, not_arrived(why, Wishes.read(self._storage, home_of(row)).origin), self._now())
            self._storage.delete(home_of(row))

    def _counted(self, row: DatasetRow, chunks: Iterable[bytes]) -> Iterator[bytes]:
        count, told_at = 0, self._now()
        for chunk in chunks:
            yield chunk
            count += len(chunk)
            if (now := self._now()) - told_at >= _TOLD_EVERY:
                if not rows.fetched(self._database, row, count):
                    raise _Withdrawn
                told_at = now


class _Withdrawn(Exception):
    """The dataset was deleted while it was fetched."""
