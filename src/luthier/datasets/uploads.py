"""Uploads that arrive in parts: a folder each, with what was announced and the bytes so far. No list shows them.

They survive a broken connection and a restart of the server, and are gone a day after their last byte. Whoever writes last
goes on: a writer that was taken over, perhaps on a connection that nobody holds any more, writes nothing from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from luthier import ids
from luthier.accounts.quotas import Quota
from luthier.accounts.types import Actor
from luthier.datasets.arrivals import full_is_told, too_large
from luthier.datasets.refusals import expected_sha256, name_of
from luthier.datasets.service import Datasets
from luthier.datasets.types import Dataset, Room, Upload
from luthier.errors import (
    FieldInvalid,
    Gone,
    Invalid,
    LuthierError,
    NotFound,
    OffsetMismatch,
    StorageFull,
    TooLarge,
    TooMany,
    WrongState,
)
from luthier.seams import Clock
from luthier.values import Frozen

KEPT = timedelta(hours=24)
"""How long an upload waits for its next byte."""
MOST_UNFINISHED = 16
"""Of one team."""
_BEGIN_AGAIN = "Begin it anew with `POST /api/uploads`."


class Announced(Frozen):
    """What will arrive, and what it is to become."""

    length: int = Field(ge=1)
    sha256: str
    name: str | None = None
    file_name: str | None = None
    base_model: str | None = None
    against: tuple[str, ...] = ()
    mapping: str | None = None
    drop_bad_rows: bool = False

    def upload(self, path: Path | None = None) -> Upload:
        """As the dataset service takes it."""
        return Upload((), path=path, **self.model_dump(exclude={"length"}))


class Partial(Frozen):
    """An upload on its way."""

    id: str
    offset: int = Field(description="Bytes that are here; the next ones follow them.")
    length: int = Field(description="Bytes of the whole file.")
    expires_at: datetime = Field(description="It is removed then, unless more bytes come.")
    dataset_id: str | None = Field(default=None, description="What became of it.")


@dataclass(frozen=True)
class Part:
    """Bytes that go on from `offset`."""

    offset: int
    chunks: Iterable[bytes]
    size: int | None = None
    """What the sender says that they are."""
    sha256: bytes | None = None
    """What they hash to; where that is wrong none of them is kept."""


class _Kept(Frozen):
    by: str
    announced: Announced
    dataset_id: str | None = None


@dataclass
class _Turn:
    """Who may write. The lock is held for one write at a time, never while a connection is waited for."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    writer: object = None


class Uploads:
    """Begin, go on, finish, give up."""

    def __init__(self, datasets: Datasets, room: Room, now: Clock) -> None:
        self._datasets = datasets
        self._room = room
        self._now = now
        self._root = room.scratch.with_name("uploads")
        self._turns: dict[str, _Turn] = {}
        self._lock = threading.Lock()

    def begin(self, actor: Actor, announced: Announced) -> Partial:
        """A place for a file, or the one that the same person has for the same file already.

        Raises: FieldInvalid (name, sha256), TooLarge, QuotaExceeded and StorageFull before the first byte, TooMany.
        """
        self.sweep()
        name_of(announced.upload())
        if expected_sha256(announced.sha256) is None:
            raise FieldInvalid("An upload in parts needs the file's sha256.", hint="64 hexadecimal digits.", param="sha256")
        if announced.length > self._room.max_upload_bytes:
            raise too_large(self._room.max_upload_bytes)
        if self._room.quotas is not None:
            self._room.quotas.room_for(actor.tenant_id, Quota.STORAGE_BYTES, announced.length)
        kept, folder = _Kept(by=actor.user_id, announced=announced), self._root / actor.tenant_id
        with self._lock, full_is_told():
            there = {path: found for path in folder.glob("*/") if (found := _read(path)) and found.dataset_id is None}
            for path, found in there.items():
                if found == kept:
                    return self._told(path, found)
            if len(there) >= MOST_UNFINISHED:
                raise TooMany(f"Your team has {len(there)} unfinished uploads.", hint="Finish or delete one.", retry_after_s=60)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            wanted = announced.length + sum(found.announced.length - _size(path) for path, found in there.items())
            if shutil.disk_usage(folder).free < wanted:
                raise StorageFull
            path = folder / ids.new(ids.UPLOAD)
            path.mkdir(mode=0o700)
            (path / "bytes").touch()
            _write(path, kept)
        return self._told(path, kept)

    def show(self, actor: Actor, upload_id: str) -> Partial:
        """How far it is. Raises: NotFound, Gone."""
        path, kept = self._found(actor, upload_id)
        return self._told(path, kept)

    def append(self, actor: Actor, upload_id: str, part: Part) -> Partial:
        """Write bytes behind those that are there. What arrived of a part that breaks off stays, if no sha256 came with it.

        Raises: NotFound, Gone; OffsetMismatch; TooLarge; Invalid `checksum_mismatch`; StorageFull; what reading `chunks` raises.
        """
        path, kept = self._found(actor, upload_id)
        length = kept.announced.length
        with self._writing(path, part.offset) as write:
            if part.offset + (part.size or 0) > length:
                raise _beyond(length)
            digest, at, whole = hashlib.sha256(), part.offset, False
            try:
                for chunk in part.chunks:
                    if at + len(chunk) > length:
                        raise _beyond(length)
                    digest.update(chunk)
                    write(chunk, at)
                    at += len(chunk)
                whole = part.sha256 in {None, digest.digest()}
            finally:
                if part.sha256 is not None and not whole:
                    write(None, part.offset)
            if not whole:
                raise _mismatch("The part")
        return self._told(path, kept)

    def finish(self, actor: Actor, upload_id: str) -> Dataset:
        """Make the dataset of an upload that is complete; asked again, it is the same dataset.

        Raises: NotFound, Gone, WrongState, and what `Datasets.upload` raises; an upload that is refused is gone.
        """
        path, _ = self._found(actor, upload_id)
        with self._turn(upload_id).lock:
            path, kept = self._found(actor, upload_id)
            if kept.dataset_id is not None:
                return self._datasets.get(actor, kept.dataset_id)
            if (have := _size(path)) != kept.announced.length:
                raise WrongState(f"The upload has {have:,} of {kept.announced.length:,} bytes.", hint="Send the rest first.")
            try:
                dataset = self._datasets.upload(actor, kept.announced.upload(path / "bytes"))
            except (Invalid, TooLarge):
                self._remove(path)
                raise
            _write(path, kept.model_copy(update={"dataset_id": dataset.id}))
            (path / "bytes").unlink()
            return dataset

    def delete(self, actor: Actor, upload_id: str) -> None:
        """Give it up. Raises: NotFound, Gone."""
        self._remove(self._found(actor, upload_id)[0])

    def sweep(self) -> None:
        """Remove what has waited too long."""
        for path in self._root.glob("*/*/"):
            if self._now() >= self._expires(path):
                self._remove(path)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _found(self, actor: Actor, upload_id: str) -> tuple[Path, _Kept]:
        path = self._root / actor.tenant_id / upload_id
        kept = _read(path) if ids.is_id(upload_id, ids.UPLOAD) else None
        if kept is None:
            raise NotFound("upload", hint=_BEGIN_AGAIN)
        if self._now() >= self._expires(path):
            self._remove(path)
            raise Gone("upload", why="has expired", hint=_BEGIN_AGAIN)
        return path, kept

    def _told(self, path: Path, kept: _Kept) -> Partial:
        length = kept.announced.length
        have = length if kept.dataset_id is not None else _size(path)
        return Partial(id=path.name, offset=have, length=length, expires_at=self._expires(path), dataset_id=kept.dataset_id)

    def _expires(self, path: Path) -> datetime:
        times = [each.stat().st_mtime for each in (path, path / "bytes") if each.exists()]
        return datetime.fromtimestamp(max(times, default=0.0), UTC) + KEPT

    def _turn(self, upload_id: str) -> _Turn:
        with self._lock:
            return self._turns.setdefault(upload_id, _Turn())

    @contextmanager
    def _writing(self, path: Path, offset: int) -> Generator[Callable[[bytes | None, int], None]]:
        """A function that writes a chunk at a place (or, without one, cuts there) while this is the newest writer."""
        turn, me = self._turn(path.name), object()
        with turn.lock:
            have = _size(path)
            if offset != have:
                raise OffsetMismatch(have)
            turn.writer = me
            file = os.open(path / "bytes", os.O_WRONLY | os.O_CLOEXEC)

        def write(chunk: bytes | None, at: int) -> None:
            with turn.lock, full_is_told():
                if turn.writer is not me:
                    raise OffsetMismatch(_size(path), "Another request goes on with this upload.")
                if chunk is None:
                    os.ftruncate(file, at)
                for piece in _pieces(chunk or b""):
                    at += os.pwrite(file, piece, at)

        try:
            yield write
        finally:
            os.close(file)

    def _remove(self, path: Path) -> None:
        with self._turn(path.name).lock:
            self._turn(path.name).writer = None
            shutil.rmtree(path, ignore_errors=True)
        with self._lock:
            self._turns.pop(path.name, None)


def _pieces(chunk: bytes, most: int = 1024 * 1024) -> Iterator[memoryview]:
    view = memoryview(chunk)
    return (view[start : start + most] for start in range(0, len(view), most))


def _size(path: Path) -> int:
    try:
        return (path / "bytes").stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> _Kept | None:
    try:
        return _Kept.model_validate_json((path / "announced.json").read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, kept: _Kept) -> None:
    fresh = path / "announced.new"
    fresh.write_text(kept.model_dump_json(), "utf-8")
    fresh.replace(path / "announced.json")


def _beyond(length: int) -> LuthierError:
    return TooLarge(f"More bytes come than the {length:,} that were announced.", hint="Announce the file again.", param="file")


def _mismatch(what: str) -> LuthierError:
    said = f"{what} does not have the sha256 that was announced; none of it was kept."
    return Invalid(said, hint="Send it again.", param="sha256", code="checksum_mismatch")
