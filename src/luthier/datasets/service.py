"""Datasets: take a file in, check it, keep it as an immutable version, and tell jobs where its rows lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts.quotas import Quota
from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.bases.types import TINY, Base
from luthier.database import EVERY_TENANT, Database, page
from luthier.datasets import previewing, rules, store
from luthier.datasets.arrivals import Arrived, adopt, receive, sweep, workspace
from luthier.datasets.background import Background
from luthier.datasets.comparing import difference
from luthier.datasets.fixing import fixed_of
from luthier.datasets.places import DISTRIBUTIONS, HASHES, INDEX, METADATA, RAW, ROWS, WISHES, kept_of
from luthier.datasets.refusals import expected_sha256, name_of, not_ready, rejection
from luthier.datasets.renderers import Renderers
from luthier.datasets.rendering import Renderer
from luthier.datasets.row_hashes import overlap
from luthier.datasets.rows import accept, dataset_of, found_row, home_of, ready_row, seen_so_far, usable_row
from luthier.datasets.samples import By, Index, read_bytes, read_row
from luthier.datasets.sandbox import Checked, Ruler, Sandbox, Task
from luthier.datasets.strict_json import parse
from luthier.datasets.types import (
    Dataset,
    Difference,
    Distributions,
    Fixed,
    Listed,
    Overlap,
    Report,
    Room,
    Sample,
    Samples,
    Stored,
    Upload,
)
from luthier.datasets.wishes import Wishes
from luthier.errors import BaseUnavailable, DatasetNotReady, Gone, InUse, Invalid, NotFound, StorageFull, Unavailable
from luthier.seams import Clock, NotStored, Storage
from luthier.values import Page, Source


class Datasets:
    """Upload, list, show, delete, and what jobs need of a dataset."""

    def __init__(self, database: Database, storage: Storage, bases: Bases, room: Room, now: Clock) -> None:
        self._database = database
        self._storage = storage
        self._bases = bases
        self._room = room
        if room.quotas is not None:
            room.quotas.measure(Quota.STORAGE_BYTES, store.stored_bytes)
        self._now = now
        self._sandbox = Sandbox()
        self._renderers = Renderers()
        self._background = Background(self._finish)

    def upload(self, actor: Actor, upload: Upload) -> Dataset:
        """Take a file in, check it, and make the next version of its name.

        Of one that is refused nothing is listed. Where rows of it are good, its bytes stay for a day, so that `fix` can have
        them: the refusal names the id, and its version is taken.

        Up to `inline_upload_bytes` the answer holds the report and the state is `ready`; a larger file answers `validating`
        and is checked in the background; so does one with an errand, once its bytes are fetched.

        Raises: TooLarge (also `line_too_long`, `too_many_rows`), DatasetRejected (code = first error's, details = the report),
        FieldInvalid (name, sha256, map), ModelNotAllowed (base_model), Invalid `checksum_mismatch`, StorageFull.
        """
        name, ruler = name_of(upload), self._ruler(upload.base_model or TINY)
        expected = expected_sha256(upload.sha256)
        dataset_id = ids.new(ids.DATASET)
        with workspace(self._room.scratch, dataset_id) as folder:
            arrived = self._arrived(upload, folder)
            if arrived is not None and expected not in (None, arrived.sha256):
                raise Invalid(
                    "The bytes that arrived do not have the sha256 that was announced.",
                    hint="Send the file again.",
                    param="sha256",
                    code="checksum_mismatch",
                )
            row = self._row(actor, dataset_id, upload, arrived)
            row.name, row.base_model = name, ruler.base_id
            wishes = Wishes.of(upload)
            against = self._against(actor.tenant_id, wishes.against, folder, strict=True)
            if arrived is None or arrived.bytes > self._room.inline_upload_bytes:
                return self._keep_for_later(row, arrived, wishes, folder)
            task = Task(arrived.path, folder / "rows", folder, against, wishes.mapping, wishes.origin, drop=wishes.drop)
            checked = self._check(task, ruler)
            if checked.report.errors:
                raise rejection(checked.report, self._keep_rejected(row, checked.report, arrived))
            accept(row, checked)
            return self._insert(row, {**kept_of(task), RAW: arrived.path})

    def list(self, actor: Actor, *, after: str | None = None, limit: int = 20, name: str | None = None) -> Page[Dataset]:
        """The tenant's datasets (of one name) that are ready or on their way, newest first. Raises: CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = page(session, store.listed(name), store.DatasetRow, after=after, limit=limit)
            return Page(data=[dataset_of(row) for row in rows], next_cursor=cursor)

    def listing(self, actor: Actor) -> Iterator[Listed]:
        """All of them, newest first, of one moment; in little memory, however many there are."""
        with self._database.read(actor.tenant_id) as session:
            yield from store.listing(session)

    def get(self, actor: Actor, dataset_id: str) -> Dataset:
        """One dataset in any state but deleted. Raises: NotFound, Gone."""
        with self._database.read(actor.tenant_id) as session:
            return dataset_of(found_row(session, dataset_id))

    def ready(self, actor: Actor, dataset_id: str) -> Dataset:
        """One dataset that can be trained on. Raises: NotFound, Gone, DatasetNotReady."""
        return dataset_of(ready_row(self._database, actor.tenant_id, dataset_id))

    def delete(self, actor: Actor, dataset_id: str) -> None:
        """Remove the files and remember only that it was there. Raises: NotFound, Gone, InUse."""
        with self._database.write(actor.tenant_id) as session:
            row = found_row(session, dataset_id)
            users = store.users(session, dataset_id)
            if users:
                more = f" and {len(users) - 3} more" if len(users) > 3 else ""
                raise InUse(
                    f"The dataset is in use by {', '.join(users[:3])}{more}.",
                    hint="Delete those first, or wait for the job to end.",
                )
            # Row before files: a crash in between leaves litter that `recover` clears, never a dataset without its files.
            row.state, row.deleted_at, row.report = store.DELETING, self._now(), None
        self._remove(row)

    def open(self, actor: Actor, dataset_id: str) -> BinaryIO:
        """The file as it was uploaded. Raises: NotFound, Gone; a rejected one is not kept."""
        return self.stored(actor, dataset_id, "original").file

    def stored(self, actor: Actor, dataset_id: str, form: Literal["original", "jsonl"]) -> Stored:
        """The file as it was uploaded, or its rows as a trainer reads them; not both are kept in every state.

        Raises: NotFound, Gone; DatasetNotReady for rows before they are checked, and for a file that is being fetched.
        """
        dataset = self.get(actor, dataset_id) if form == "original" else self.ready(actor, dataset_id)
        where, sha256 = (RAW, dataset.sha256) if form == "original" else (ROWS, dataset.rows_sha256)
        if sha256 is None:
            raise not_ready(dataset.state)
        path, name = home_of(dataset) + where, f"{dataset.name}-v{dataset.version}.jsonl"
        try:
            return Stored(self._storage.open(path), self._storage.size(path) or 0, sha256, name)
        except NotStored:
            raise Gone("dataset") from None

    def samples(self, actor: Actor, dataset_id: str, by: By, count: int, seed: int = 0) -> Samples:
        """Some rows as they are stored; by chance means the same ones for the same seed.

        Raises: NotFound, Gone, DatasetNotReady.
        """
        dataset = self.ready(actor, dataset_id)
        remarks = dataset.report.findings if dataset.report else ()
        folder = home_of(dataset)
        try:
            with self._storage.open(folder + INDEX) as stream, self._storage.open(folder + ROWS) as rows:
                index = Index(stream, self._storage.size(folder + INDEX) or 0, self._storage.size(folder + ROWS) or 0)
                chosen = index.choose(by, count, seed, (each.line for each in remarks if each.line))
                return Samples(
                    by=by,
                    seed=seed,
                    data=tuple(
                        Sample(
                            line=place.line,
                            bytes=place.size,
                            findings=tuple(each for each in remarks if each.line == place.line),
                            row=read_row(rows, place, rules.SAMPLE_CHARACTERS),
                        )
                        for place in chosen
                    ),
                )
        except NotStored:
            raise Gone("dataset") from None

    def drawn(self, actor: Actor, dataset_id: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
        """Rows by chance, whole, as a trainer reads them. Raises: NotFound, Gone, DatasetNotReady."""
        folder = home_of(self.ready(actor, dataset_id))
        try:
            with self._storage.open(folder + INDEX) as stream, self._storage.open(folder + ROWS) as rows:
                index = Index(stream, self._storage.size(folder + INDEX) or 0, self._storage.size(folder + ROWS) or 0)
                return [parse(line, row) for line, row in read_bytes(rows, index.choose("random", count, seed))]
        except NotStored:
            raise Gone("dataset") from None

    def preview(self, actor: Actor, dataset_id: str, wish: previewing.Wish) -> previewing.Preview:
        """What a method learns of some rows, on a base model: every token, whether it carries loss, what is cut and packed.

        Raises: NotFound, Gone, DatasetNotReady; ModelNotAllowed, BaseUnavailable; FieldInvalid (method); Invalid `template`.
        """
        dataset = self.ready(actor, dataset_id)
        base = self._bases.get(wish.base_model or TINY)
        known = previewing.Known(base.id, base.context, dataset.report.methods if dataset.report else (), dataset.rows or 1)
        previewing.method_of(known.methods, wish.method)
        renderer = self._renderer(base)
        folder = home_of(dataset)
        try:
            with self._storage.open(folder + INDEX) as stream, self._storage.open(folder + ROWS) as rows:
                index = Index(stream, self._storage.size(folder + INDEX) or 0, self._storage.size(folder + ROWS) or 0)
                stored = list(read_bytes(rows, index.after(wish.line or 0, wish.rows)))
        except NotStored:
            raise Gone("dataset") from None
        return previewing.preview(stored, renderer, known, wish)

    def distributions(self, actor: Actor, dataset_id: str) -> Distributions:
        """How tokens, turns, languages and more spread over the rows. Raises: NotFound, Gone, DatasetNotReady."""
        dataset = self.ready(actor, dataset_id)
        try:
            return Distributions.model_validate_json(self._storage.read(home_of(dataset) + DISTRIBUTIONS))
        except NotStored:
            raise Gone("dataset") from None

    def difference(self, actor: Actor, old_id: str, new_id: str) -> Difference:
        """What became of the rows of one dataset in another. Raises: NotFound, Gone, DatasetNotReady."""
        old, new = self.ready(actor, old_id), self.ready(actor, new_id)
        with workspace(self._room.scratch, ids.new(ids.DATASET)) as folder:
            self._fetch(old, HASHES, folder / "old")
            self._fetch(new, HASHES, folder / "new")
            return difference(old, new, folder / "old", folder / "new")

    def shared(self, actor: Actor, dataset_id: str, other_id: str) -> tuple[Overlap, tuple[int, ...]]:
        """What a dataset shares with another, and the first of its lines that do; nothing where that is not known."""
        dataset, other = self.ready(actor, dataset_id), self.ready(actor, other_id)
        with workspace(self._room.scratch, ids.new(ids.DATASET)) as folder:
            try:
                self._fetch(dataset, HASHES, folder / "mine")
                self._fetch(other, HASHES, folder / "theirs")
            except Gone:  # stored by a version that kept no hashes
                return Overlap(name=f"{other.name}@{other.version}", rows=0, prompts=0), ()
            found = overlap(folder / "mine", folder / "theirs", rules.SHOWN_A_CODE)
        told = Overlap(name=f"{other.name}@{other.version}", rows=found.rows.count, prompts=found.prompts.count)
        return told, tuple(line for line, _ in found.rows)

    def fix(self, actor: Actor, dataset_id: str) -> Fixed:
        """Make the next version of a name from what is good of this one: bad rows and repeated rows are left out.

        Works on a rejected one, too, for as long as its bytes are kept. Raises: NotFound, Gone, DatasetNotReady, and what
        `upload` raises.
        """
        self.sweep()
        with self._database.read(actor.tenant_id) as session:
            dataset = dataset_of(row := found_row(session, dataset_id))
            file_name, base_model = row.file_name, row.base_model
        if dataset.state == store.VALIDATING or dataset.sha256 is None:
            raise not_ready(dataset.state)
        with workspace(self._room.scratch, ids.new(ids.DATASET)) as folder:
            source = folder / "upload"
            self._fetch(dataset, RAW, source)
            mapping = {} if dataset.report is None else dataset.report.mapping
            cleaned = Task(source, folder / "rows", folder, mapping=mapping, drop=True, distinct=True)
            report = self._check(cleaned, self._ruler(base_model)).report
            if report.errors:
                raise rejection(report)
            with cleaned.rows.open("rb") as rows:
                chunks = iter(lambda: rows.read(rules.CHUNK_BYTES), b"")
                fixed = self.upload(actor, Upload(chunks, dataset.name, file_name, base_model=base_model))
            return fixed_of(dataset, fixed, report, folder / "dropped")

    def rendering_sha256(self, base: Base) -> str | None:
        """Of what makes tokens of rows for this base; None before the base is here. Raises: Invalid `template`."""
        folder = self._bases.tokenizer_folder(base)
        return None if folder is None else self._renderers.of(folder).fingerprint

    def source(self, dataset: Dataset) -> Source:
        """What a trainer reads: url and sha256 of the canonical rows. Raises: DatasetNotReady."""
        if dataset.rows_sha256 is None:
            raise not_ready(dataset.state)
        return Source(id=dataset.id, url=f"{self._storage.url}/{home_of(dataset)}{ROWS}", sha256=dataset.rows_sha256)

    def use(self, session: Session, actor: Actor, dataset_id: str, by: str) -> None:
        """Keep a dataset from being deleted, in the transaction that makes its user `by` (a job or model id); twice is once.
        One that is still being checked, too, for those that wait for it.

        Raises: NotFound, Gone, DatasetNotReady.
        """
        row = usable_row(session, actor.tenant_id, dataset_id)
        if row.tenant_id != actor.tenant_id:
            raise NotFound("dataset")
        store.use(session, row, by)

    def release(self, session: Session, by: str) -> None:
        """Let go of all that `by` uses. Fine if it uses nothing."""
        store.release(session, by)

    def recover(self) -> None:
        """At the start of the server: go on with what a crash cut short (validations, deletions), clear litter."""
        sweep(self._room.scratch)
        with self._database.read(EVERY_TENANT) as session:
            unfinished = [row.id for row in store.in_state(session, store.VALIDATING) if row.fetched_bytes is None]
            deleting = list(store.in_state(session, store.DELETING))
        for row in deleting:
            self._remove(row)
        self.sweep()
        for dataset_id in unfinished:
            self._background.add(dataset_id)

    def sweep(self) -> None:
        """Remove the bytes of rejected datasets that nobody fixed in time."""
        with self._database.read(EVERY_TENANT) as session:
            stale = store.rejected_before(session, self._now() - rules.REJECTED_KEPT)
        for row in stale:
            self._storage.delete(home_of(row))
            with self._database.write(row.tenant_id) as session:
                current = store.by_id(session, row.id)
                if current is not None:
                    current.deleted_at = self._now()

    def check_later(self, dataset_id: str) -> None:
        """Check a file whose bytes have come, in the background; nothing happens to one that does not wait for that."""
        self._background.add(dataset_id)

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait until no validation is waiting or running. Raises: TimeoutError. For tests and for an orderly end."""
        self._background.settle(timeout_s)

    def close(self) -> None:
        """End the background validation; what is unfinished is taken up by the next `recover`."""
        self._sandbox.close()
        self._background.close()

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _ruler(self, base_id: str) -> Ruler:
        base = self._bases.get(base_id)
        return Ruler(base.id, self._bases.tokenizer_folder(base), base.context)

    def _renderer(self, base: Base) -> Renderer:
        folder = self._bases.tokenizer_folder(base)
        if folder is None:
            raise BaseUnavailable(
                f"The base model {base.id} is not on this machine.", hint=f"Fetch it with `luthier bases fetch {base.id}`."
            )
        return self._renderers.of(folder)

    def _arrived(self, upload: Upload, folder: Path) -> Arrived | None:
        if upload.errand is not None:
            return None
        most = self._room.max_upload_bytes
        return adopt(upload.path, folder, most) if upload.path else receive(upload.chunks, folder, most)

    def _row(self, actor: Actor, dataset_id: str, upload: Upload, arrived: Arrived | None) -> store.DatasetRow:
        return store.DatasetRow(
            id=dataset_id,
            tenant_id=actor.tenant_id,
            file_name=rules.shown(upload.file_name),
            bytes=0 if arrived is None else arrived.bytes,
            sha256="" if arrived is None else arrived.sha256,
            fetched_bytes=0 if arrived is None else None,
            expected_bytes=None if upload.errand is None else upload.errand.bytes,
            created_by=actor.user_id,
            created_at=self._now(),
        )

    def _check(self, task: Task, ruler: Ruler) -> Checked:
        checked = self._sandbox.check(task, ruler)
        if checked is None:
            raise Unavailable("The server is shutting down.", hint="Send the file again in a moment.")
        return checked

    def _keep_for_later(self, row: store.DatasetRow, arrived: Arrived | None, wishes: Wishes, folder: Path) -> Dataset:
        row.state = store.VALIDATING
        wished = folder / "wishes"
        wished.write_text(wishes.model_dump_json())
        dataset = self._insert(row, {WISHES: wished} if arrived is None else {RAW: arrived.path, WISHES: wished})
        if arrived is not None:
            self._background.add(row.id)
        return dataset

    def _keep_rejected(self, row: store.DatasetRow, report: Report, arrived: Arrived) -> str | None:
        """The id by which `fix` finds a refused file; None where there is nothing to be had, or no room."""
        self.sweep()
        if not report.usable_rows:
            return None
        row.state, row.report = store.REJECTED, report.model_dump_json()
        with suppress(StorageFull):
            return self._insert(row, {RAW: arrived.path}).id
        return None

    def _against(self, tenant_id: str, ids_: Sequence[str], folder: Path, *, strict: bool) -> dict[str, Path]:
        """Local files of the hashes of other datasets, by what those are called. Raises, where `strict`: NotFound, Gone, ..."""
        found: dict[str, Path] = {}
        for number, other_id in enumerate(ids_):
            path = folder / f"against-{number}"
            try:
                with self._database.read(tenant_id) as session:
                    other = dataset_of(ready_row(session, tenant_id, other_id))
                self._fetch(other, HASHES, path)
            except (NotFound, Gone, DatasetNotReady):
                if strict:
                    raise
                continue  # it was deleted since
            found[f"{other.name}@{other.version}"] = path
        return found

    def _fetch(self, dataset: Dataset, name: str, path: Path) -> None:
        try:
            self._storage.fetch_file(home_of(dataset) + name, path)
        except NotStored:
            raise Gone("dataset") from None

    def _insert(self, row: store.DatasetRow, files: Mapping[str, Path]) -> Dataset:
        """Give the row its number and make it visible. The files come first: a folder without a row is only litter."""
        try:
            for name, path in files.items():
                self._storage.put_file(home_of(row) + name, path)
            with self._database.write(row.tenant_id) as session:
                if self._room.quotas is not None:
                    self._room.quotas.check(session, row.tenant_id, {Quota.STORAGE_BYTES: row.bytes})
                row.version = store.next_version(session, row.tenant_id, row.name)
                session.add(row)
        except BaseException:  # whatever went wrong, also a shutdown: no files without a row
            self._storage.delete(home_of(row))
            raise
        dataset = dataset_of(row)
        self._describe(row)
        return dataset

    # -- in the background -------------------------------------------------------------------------------------------

    def _finish(self, dataset_id: str) -> None:
        """Check a large file that was taken in, once. Nothing happens if it is no longer waiting for that."""
        with self._database.read(EVERY_TENANT) as session:
            row = store.by_id(session, dataset_id)
        if row is None or row.state != store.VALIDATING:
            return
        with workspace(self._room.scratch, ids.new(ids.DATASET)) as folder:
            task = self._task(row, folder)
            hear = partial(seen_so_far, self._database, dataset_id)
            checked = self._sandbox.check(task, self._ruler(row.base_model), hear=hear)
            if checked is None:
                return
            if not checked.report.errors:
                for name, path in kept_of(task).items():
                    self._storage.put_file(home_of(row) + name, path)
        self._decide(row, checked)

    def _task(self, row: store.DatasetRow, folder: Path) -> Task:
        """The check of a file that waits in the storage, as its owner wished it."""
        source = folder / "upload"
        self._storage.fetch_file(home_of(row) + RAW, source)
        wishes = Wishes.read(self._storage, home_of(row))
        against = self._against(row.tenant_id, wishes.against, folder, strict=False)
        return Task(source, folder / "rows", folder, against, wishes.mapping, wishes.origin, drop=wishes.drop)

    def _decide(self, row: store.DatasetRow, checked: Checked) -> None:
        with self._database.write(row.tenant_id) as session:
            current = store.by_id(session, row.id)
            waiting = current is not None and current.state == store.VALIDATING
            if current is not None and waiting:
                if checked.report.errors:
                    current.state, current.report = store.REJECTED, checked.report.model_dump_json()
                else:
                    accept(current, checked)
        if current is None or not waiting:
            self._storage.delete(home_of(row))
        elif current.state == store.READY:
            self._describe(current)
        self.sweep()

    def _describe(self, row: store.DatasetRow) -> None:
        # A projection for people and for `reindex`: the dataset exists, with or without it.
        with suppress(StorageFull):
            self._storage.write(home_of(row) + METADATA, dataset_of(row).model_dump_json(indent=2).encode())

    def _remove(self, row: store.DatasetRow) -> None:
        self._storage.delete(home_of(row))
        with self._database.write(row.tenant_id) as session:
            current = store.by_id(session, row.id)
            if current is not None:
                current.state = store.DELETED
