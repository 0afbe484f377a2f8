"""Does the audit log hold? A walk along all chains, over whatever somebody may have written into the table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from luthier.accounts import audit_store as store
from luthier.accounts import deeds
from luthier.accounts.audit_rows import entries
from luthier.accounts.audit_types import AuditEntry, Head, Unreadable, Verdict
from luthier.accounts.sealing import ANCHOR, walk

Pins = dict[int, str]
"""Hashes of a chain by their number."""


def verify(session: Session, head_path: Path, noted: Head | None, late: datetime) -> Verdict:
    """Walk the platform's chain against the head beside the database and the one that was `noted`, then each tenant's against
    what the platform's pins of it. Rows from before `late` ought to be sealed."""
    kept, faults = _kept(head_path, session)
    rows, last, pins = 0, None, dict[str, Pins]()
    for found in walk(deeds.PLATFORM, _chain(session, deeds.PLATFORM), _pins(kept, noted)):
        if isinstance(found, str):
            faults.append(found)
            break
        rows, last = rows + 1, found
        _note_pins(pins, found)
    names = sorted(({*store.tenants(session), *pins}) - {deeds.PLATFORM})
    for name in names:
        for found in walk(name, _chain(session, name), pins.get(name, {})):
            rows += isinstance(found, AuditEntry)
            faults += [found] if isinstance(found, str) else []
    faults += _not_to_be_sealed(session)
    head = Head(seq=last.seq or 0, sha256=last.sha256 or "") if last is not None else None
    return Verdict(rows=rows, chains=len(names) + 1, unsealed=store.count_unsealed(session, late), head=head, faults=faults)


def _kept(path: Path, session: Session) -> tuple[Head | None, list[str]]:
    """The head beside the database, and what is wrong with that file."""
    try:
        return Head.model_validate_json(path.read_bytes()), []
    except FileNotFoundError:
        begun = store.head(session, deeds.PLATFORM)[0] > 0
        missing = f"{deeds.PLATFORM}: {path.name} is missing beside the database: its end may have been cut off"
        return None, [missing] if begun else []
    except ValueError:
        return None, [f"{deeds.PLATFORM}: {path.name} beside the database was changed: it holds no head"]


def _pins(*heads: Head | None) -> Pins:
    return {head.seq: head.sha256 for head in heads if head is not None}


def _chain(session: Session, tenant_id: str) -> Iterator[AuditEntry | Unreadable]:
    return entries(session, store.chain(tenant_id), store.AuditRow.seq)


def _note_pins(pins: dict[str, Pins], entry: AuditEntry) -> None:
    if entry.action != ANCHOR or entry.data is None:
        return
    for tenant_id, end in entry.data.items():
        # The first pin of a number stays: a chain that was written and sealed anew is pinned again, differently.
        pins.setdefault(tenant_id, {}).setdefault(end["seq"], end["sha256"])


def _not_to_be_sealed(session: Session) -> list[str]:
    """Rows that no sealing takes."""
    found = entries(session, store.not_sealed(), store.AuditRow.id)
    bad = [row for row in found if isinstance(row, Unreadable)]
    return [
        f"{row.tenant_id}: row {row.id}, which is not sealed yet, does not read like a row of this log: it was changed"
        for row in bad
    ]
