"""From what a caller typed to the row that it stands for."""

from __future__ import annotations

from sqlalchemy.orm import Session

from luthier.errors import Gone, NotFound
from luthier.jobs.rows import job_behind
from luthier.registry import rules, store


def standing(row: store.ModelRow | None) -> store.ModelRow:
    """A row that is there and was not deleted. Raises: NotFound, Gone."""
    if row is None:
        raise NotFound("model")
    if row.deleted_at is not None:
        raise Gone("model")
    return row


def meant(session: Session, ref: str) -> store.ModelRow:
    """The row that a reference stands for. Raises: NotFound, Gone, ModelNotReady."""
    for found in rules.references(ref):
        if found.id is not None:
            row = store.by_id(session, found.id)
            if row is None:
                _check_not_on_its_way(session, found)
            return standing(row)
        if found.tail is not None:
            row = store.by_tail(session, found.tail, found.name)
            if row is not None:
                return standing(row)
            continue
        name = found.name or ""
        row = store.in_production(session, name) if found.number is None else store.by_number(session, name, found.number)
        if row is not None:
            return standing(row)
        newest = store.newest_standing(session, name)
        if newest is not None and found.number is None:
            hint = f"Its newest is version {newest}: write `name@{newest}`, or promote one."
            raise NotFound("model", hint=f"No version of this name is in Production. {hint}")
        _check_not_on_its_way(session, found)
    raise NotFound("model")


def _check_not_on_its_way(session: Session, meant: rules.Reference) -> None:
    """Raises: ModelNotReady where a job would have made what is meant, and has not."""
    name = rules.job_id_of(meant.id) if meant.id is not None else meant.name or ""
    if meant.number is not None and meant.number != store.newest_number(session, name) + 1:
        return
    job = job_behind(session, name)
    if job is not None:
        rules.check_made(job)
