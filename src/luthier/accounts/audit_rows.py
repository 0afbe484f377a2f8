"""Between rows of the audit log and values, also where somebody made a row unreadable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute, Session

from luthier.accounts.audit_store import AuditRow
from luthier.accounts.audit_types import AuditEntry, Outcome, Unreadable

_AT_ONCE = 500
_NONSENSE = (ValueError, TypeError, OverflowError, OSError)
"""What a column raises that holds what we never write there: a moment beyond all years, an outcome that does not exist."""


def resources_text(names: list[str]) -> str:
    """Ids, each between blanks, so that one is found by " id "."""
    return "".join(f" {each} " for each in names)


def data_text(data: dict[str, Any] | None) -> str | None:
    return None if data is None else json.dumps(data, sort_keys=True)


def entry_of(row: AuditRow) -> AuditEntry:
    """The row as a value; what is hashed is made of it."""
    return AuditEntry(
        id=row.id,
        at=row.at,
        until=row.until,
        tenant_id=row.tenant_id,
        actor=row.actor,
        key_id=row.key_id,
        address=row.address,
        request_id=row.request_id,
        action=row.action,
        route=row.route,
        resources=row.resources.split(),
        outcome=Outcome(row.outcome),
        status=row.status,
        code=row.code,
        count=row.count,
        data=None if row.data is None else json.loads(row.data),
        seq=row.seq,
        sha256=row.sha256,
    )


def entries(
    session: Session, query: Select[AuditRow], key: InstrumentedAttribute[Any], at_once: int = _AT_ONCE
) -> Iterator[AuditEntry | Unreadable]:
    """What the query finds, in the order of `key`, which is unique in it; a few at a time."""
    last, most = None, at_once
    while True:
        rest = (query if last is None else query.where(key > last)).order_by(key).limit(most)
        try:
            rows = session.scalars(rest).all()
        except (*_NONSENSE, DBAPIError):
            if most > 1:  # it is one of these: each alone, until it is found
                most = 1
                continue
            named = rest.with_only_columns(key, AuditRow.id, AuditRow.tenant_id, AuditRow.seq)
            last, row_id, tenant_id, seq = session.execute(named).one()
            yield Unreadable(row_id, tenant_id, seq)
            most = at_once
            continue
        yield from map(_read, rows)
        if not rows:
            return
        last = getattr(rows[-1], key.key)


def _read(row: AuditRow) -> AuditEntry | Unreadable:
    try:
        entry = entry_of(row)
    except _NONSENSE:
        return Unreadable(row.id, row.tenant_id, row.seq)
    # What is hashed is the entry: where the row says it in other words, a search misses what the hash has.
    as_written = (row.resources, row.data) == (resources_text(entry.resources), data_text(entry.data))
    return entry if as_written else Unreadable(row.id, row.tenant_id, row.seq)
