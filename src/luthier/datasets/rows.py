"""Between the row of a dataset and the value that faces show."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from sqlalchemy.orm import Session

from luthier import ids
from luthier.database import EVERY_TENANT, Database
from luthier.datasets import store
from luthier.datasets.places import folder_of
from luthier.datasets.refusals import not_ready
from luthier.datasets.sandbox import Checked
from luthier.datasets.types import Arriving, Dataset, Report
from luthier.errors import Gone, NotFound

_SAME = set(Dataset.model_fields) - {"report", "arriving", "sha256"}


def accept(row: store.DatasetRow, checked: Checked) -> None:
    """A file without errors can be trained on."""
    row.state = store.READY
    row.rows_sha256, row.report = checked.rows_sha256, checked.report.model_dump_json()
    row.rows, row.tokens = checked.report.usable_rows, checked.report.tokens


def home_of(dataset: store.DatasetRow | Dataset) -> str:
    """Where its files lie."""
    return folder_of(dataset.tenant_id, dataset.id)


def dataset_of(row: store.DatasetRow) -> Dataset:
    """What faces show."""
    return Dataset.model_validate(
        {
            **{name: getattr(row, name) for name in _SAME},
            "sha256": row.sha256 or None,
            "report": None if row.report is None else _report(row.report),
            "arriving": None if row.fetched_bytes is None else Arriving(bytes=row.fetched_bytes, total=row.expected_bytes),
        }
    )


@lru_cache(maxsize=64)
def _report(text: str) -> Report:
    """Kept: each submit asks for the report of its dataset anew, and reading it takes longer than finding it."""
    return Report.model_validate_json(text)


def found_row(session: Session, dataset_id: str) -> store.DatasetRow:
    """One in any state but deleted. Raises: NotFound, Gone."""
    return _there(store.by_id(session, dataset_id) if ids.is_id(dataset_id, ids.DATASET) else None)


def _there(row: store.DatasetRow | None) -> store.DatasetRow:
    if row is None:
        raise NotFound("dataset")
    if row.state in {store.DELETING, store.DELETED}:
        raise Gone("dataset")
    return row


def usable_row(place: Session | Database, tenant_id: str, dataset_id: str) -> store.DatasetRow:
    """One that can be trained on, or perhaps once it was checked; to be read only. Raises: NotFound, Gone, DatasetNotReady."""
    row = _there(store.look(place, tenant_id, dataset_id) if ids.is_id(dataset_id, ids.DATASET) else None)
    if row.state == store.REJECTED:
        raise not_ready(row.state)
    return row


def ready_row(place: Session | Database, tenant_id: str, dataset_id: str) -> store.DatasetRow:
    """One that can be trained on, to be read only. Raises: NotFound, Gone, DatasetNotReady."""
    row = usable_row(place, tenant_id, dataset_id)
    if row.state != store.READY:
        raise not_ready(row.state)
    return row


def seen_so_far(database: Database, dataset_id: str, report: Report) -> None:
    """Say what the check of one has found, while it goes on."""
    with database.beat() as session:
        current = store.by_id(session, dataset_id)
        if current is not None and current.state == store.VALIDATING:
            current.report = report.model_dump_json()


# -- datasets whose bytes are still to be fetched: `fetched_bytes` counts them, and is null for all others ---------------


def awaited(database: Database, tenant_id: str = EVERY_TENANT) -> list[store.DatasetRow]:
    """All that wait, of one team or of all, oldest first."""
    with database.read(tenant_id) as session:
        return [row for row in store.in_state(session, store.VALIDATING) if row.fetched_bytes is not None]


def awaiting(database: Database, dataset_id: str) -> store.DatasetRow | None:
    """The row of one that waits."""
    with database.read(EVERY_TENANT) as session:
        return _awaiting(session, dataset_id)


def fetched(database: Database, row: store.DatasetRow, count: int) -> bool:
    """Say how many bytes are here; False where nobody waits for them any more."""
    with database.beat() as session:
        current = _awaiting(session, row.id)
        if current is not None:
            current.fetched_bytes = count
    return current is not None


def arrived(database: Database, row: store.DatasetRow, size: int, sha256: str) -> bool:
    """All bytes are here; False where nobody waits for them any more."""
    with database.write(row.tenant_id) as session:
        current = _awaiting(session, row.id)
        if current is not None:
            current.bytes, current.sha256 = size, sha256
            current.fetched_bytes = current.expected_bytes = None
    return current is not None


def not_arrived(database: Database, row: store.DatasetRow, report: Report, moment: datetime) -> None:
    """The bytes cannot be had: it is rejected, with nothing that would have to be removed later."""
    with database.write(row.tenant_id) as session:
        current = _awaiting(session, row.id)
        if current is not None:
            current.state, current.report, current.deleted_at = store.REJECTED, report.model_dump_json(), moment
            current.fetched_bytes = current.expected_bytes = None


def _awaiting(session: Session, dataset_id: str) -> store.DatasetRow | None:
    row = store.by_id(session, dataset_id)
    return row if row is not None and row.state == store.VALIDATING and row.fetched_bytes is not None else None
