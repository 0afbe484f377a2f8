"""The audit log: one row for each request that may change something, in the transaction that changes it.

No service writes a row. The door says what is being done (`deeds.py`), the database calls `Audit` before it commits, and
what commits nothing is told by the door when it is answered. `keep` seals the rows into chains (`sealing.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Self

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts import audit_store as store
from luthier.accounts import deeds
from luthier.accounts.audit_rows import data_text, entries, entry_of, resources_text
from luthier.accounts.audit_types import AuditEntry, Head, Outcome, Unreadable, Verdict, Wanted
from luthier.accounts.refusals import Refusal, Refusals
from luthier.accounts.sealing import ANCHOR, sealed
from luthier.accounts.types import Actor
from luthier.accounts.verifying import verify
from luthier.database import EVERY_TENANT, Changes, Database, from_ms, insert, page, to_ms
from luthier.errors import DatabaseBusy, StorageFull
from luthier.seams import Clock
from luthier.values import Page

_LOG = logging.getLogger("luthier.accounts")
_ROUND = 250
"""What one transaction seals: others wait for it."""
_MOST_IDS = 20
_LATE = timedelta(minutes=1)
_AT_ONCE = timedelta(0)


class Audit:
    """Who did what. Rows are added, sealed and read; nothing else can be done to them."""

    def __init__(self, database: Database, now: Clock, head_path: Path) -> None:
        self._database = database
        self._now = now
        self._head_path = head_path
        self._refusals = Refusals()

    # -- recording ---------------------------------------------------------------------------------------------------

    def watching(self) -> Self:
        """From here on, whatever is committed through the database has its row."""
        self._database.witness = self._witness
        return self

    def _witness(self, session: Session, changes: Changes) -> Callable[[], None]:
        deed = deeds.current()
        if deed is None or deed.recorded:
            return _nothing
        act = deed.act()
        several = list(changes.tenants) if act.actor == deeds.SYSTEM else []
        for owner in several or [act.tenant_id or _owner(session, changes)]:
            on = act.on + (changes.ids_for(owner) if several else tuple(changes.ids))
            insert(session, _row(dataclasses.replace(act, tenant_id=owner, on=on), Outcome.CHANGED, self._now()))

        def committed() -> None:
            deed.recorded = True  # not before: a transaction that fails leaves the row to the next one

        return committed

    def answered(self, deed: deeds.Deed, status: int | None, code: str | None) -> None:
        """Give a request that committed nothing its row: at once where it was served, by `keep` where it was refused.

        Without a status it was cut off before its answer.
        """
        if deed.recorded:
            return
        deed.recorded = True
        if status is None or status >= 400:
            self.refused(deed, status, code)
            return
        try:
            # Not `write`: there is nothing here that a power cut must not lose, so no answer waits for the disk.
            with self._database.beat() as session:
                session.add(_row(deed.act(), Outcome.UNCHANGED, self._now(), status=status))
        except (DatabaseBusy, StorageFull):
            self.refused(deed, status, None)

    def refused(self, deed: deeds.Deed, status: int | None, code: str | None) -> None:
        """Count a refusal; its row is written by `keep`."""
        now = self._now()
        self._refusals.add(Refusal(deed.act(), _outcome(status), status, code, now, now))

    # -- sealing -----------------------------------------------------------------------------------------------------

    def keep(self, *, everything: bool = False, patience: timedelta = _AT_ONCE) -> int:
        """Write the refusals that are due, and seal all rows, once the oldest has waited for so long. Returns how many were
        sealed. Raises: DatabaseBusy, StorageFull."""
        count = 0
        with deeds.by_nobody():
            self._write_refusals(everything=everything)
            while self._any_unsealed(patience):
                count += self._seal()
        return count

    def _write_refusals(self, *, everything: bool) -> None:
        due = self._refusals.due(self._now(), everything=everything)
        if not due:
            return
        try:
            with self._database.write(EVERY_TENANT) as session:
                session.add_all(_refusal_row(refusal) for refusal in due)
        except (DatabaseBusy, StorageFull):
            for refusal in due:
                self._refusals.add(refusal)
            raise

    def _any_unsealed(self, patience: timedelta) -> bool:
        with self._database.read(EVERY_TENANT) as session:
            oldest = _unsealed(session, 1)
        return bool(oldest) and not timedelta(0) <= self._now() - oldest[0].at < patience

    def _seal(self) -> int:
        """Seal the oldest rows. Worked out before the write lock is taken, for which others wait; checked under it: of several
        at once the second finds longer chains, and seals nothing this time."""
        with self._database.read(EVERY_TENANT) as session:
            plan = _planned(session)
        with self._database.write(EVERY_TENANT) as session:
            if not plan.rows or any(_end(session, tenant_id) != end for tenant_id, end in plan.before.items()):
                return 0
            ours = plan.ours
            if plan.ends:
                anchor = self._anchor(plan.ends)
                insert(session, anchor)
                ours = [*ours, entry_of(anchor)]
            ends, seals = _extended(session, ours)
            store.seal(session, plan.seals + seals)
        self._note(ends[deeds.PLATFORM])
        return plan.rows

    def _anchor(self, ends: dict[str, Head]) -> store.AuditRow:
        facts = {tenant_id: end.model_dump() for tenant_id, end in ends.items()}
        row = _row(deeds.Act(ANCHOR, deeds.SYSTEM, deeds.PLATFORM), Outcome.CHANGED, self._now())
        row.data = data_text(facts)
        return row

    def _note(self, head: Head) -> None:
        """Write the head beside the database: whoever cuts the end off must change a file of another kind too."""
        arriving = self._head_path.with_name(f".{self._head_path.name}.{os.getpid()}")
        try:
            arriving.write_text(head.model_dump_json() + "\n", "utf-8")
            arriving.replace(self._head_path)
        except OSError as error:  # the rows are sealed, and the next round notes a later head
            _LOG.warning("%s could not be written: %s", self._head_path.name, error.strerror)

    # -- reading -----------------------------------------------------------------------------------------------------

    def list(self, actor: Actor, wanted: Wanted, *, after: str | None = None, limit: int = 50) -> Page[AuditEntry]:
        """The rows of the caller's team that fit, newest first. Raises: CursorInvalid."""
        equal = {"actor": wanted.actor, "action": wanted.action, "outcome": wanted.outcome, "request_id": wanted.request_id}
        query = store.matching(since=wanted.since, until=wanted.until, on=wanted.on, **equal)
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = page(session, query, store.AuditRow, after=after, limit=limit)
            return Page(data=[entry_of(row) for row in rows], next_cursor=cursor)

    def teams_since(self, since: datetime) -> set[str]:
        """Where somebody did something from that time on, give or take a millisecond."""
        with self._database.read(EVERY_TENANT) as session:
            return store.tenants_since(session, since)

    @contextmanager
    def export(
        self, since: datetime | None = None, until: datetime | None = None
    ) -> Generator[Iterator[AuditEntry | Unreadable]]:
        """The rows of all chains from that time on, oldest first, inside the block."""
        with self._database.read(EVERY_TENANT) as session:
            yield entries(session, store.matching(since=since, until=until), store.AuditRow.id)

    def verify(self, noted: Head | None = None) -> Verdict:
        """Walk all chains, against the head beside the database and the one that was `noted`. Holds whatever somebody wrote
        into the table."""
        with self._database.read(EVERY_TENANT) as session:
            return verify(session, self._head_path, noted, self._now() - _LATE)

    def close(self) -> None:
        """Write and seal what is left, where the database still takes it."""
        try:
            self.keep(everything=True)
        except (DatabaseBusy, StorageFull):
            return


@dataclass(frozen=True)
class _Plan:
    """What is to be sealed, as long as the chains end where they did `before`."""

    rows: int
    ours: list[AuditEntry]
    """Rows of the platform's own chain: they follow those that it pins."""
    before: dict[str, Head | None]
    ends: dict[str, Head]
    seals: list[dict[str, Any]]


def _planned(session: Session) -> _Plan:
    rows = _unsealed(session, _ROUND)
    ours = [row for row in rows if row.tenant_id == deeds.PLATFORM]
    ends, seals = _extended(session, [row for row in rows if row.tenant_id != deeds.PLATFORM])
    return _Plan(len(rows), ours, {tenant_id: _end(session, tenant_id) for tenant_id in (*ends, deeds.PLATFORM)}, ends, seals)


def _unsealed(session: Session, most: int) -> list[AuditEntry]:
    """The oldest rows that are to be sealed. Those that somebody made unreadable stop no other: `verify` names them."""
    found = entries(session, store.not_sealed(), store.AuditRow.id, at_once=most)
    return list(islice((row for row in found if isinstance(row, AuditEntry)), most))


def _extended(session: Session, rows: list[AuditEntry]) -> tuple[dict[str, Head], list[dict[str, Any]]]:
    """These rows, each at the end of its tenant's chain: the new ends, and what is to be written for it."""
    ends: dict[str, Head] = {}
    seals: list[dict[str, Any]] = []
    for row in rows:
        end = ends.get(row.tenant_id) or _end(session, row.tenant_id)
        entry = sealed(row, end)
        ends[row.tenant_id] = Head(seq=entry.seq or 0, sha256=entry.sha256 or "")
        seals.append({"row": entry.id, "number": entry.seq, "hash": entry.sha256})
    return ends, seals


def _end(session: Session, tenant_id: str) -> Head | None:
    seq, sha256 = store.head(session, tenant_id)
    return Head(seq=seq, sha256=sha256 or "") if seq else None


def _owner(session: Session, changes: Changes) -> str:
    tenant_id: str = session.info["tenant_id"]
    return tenant_id if tenant_id != EVERY_TENANT else next(iter(changes.tenants), deeds.PLATFORM)


def _row(act: deeds.Act, outcome: Outcome, at: datetime, **facts: Any) -> store.AuditRow:
    return store.AuditRow(
        id=ids.new(ids.AUDIT),
        tenant_id=act.tenant_id or deeds.PLATFORM,
        at=from_ms(to_ms(at)),  # as it will be read: what is hashed must not have more digits
        actor=act.actor,
        key_id=act.key_id,
        address=act.address,
        request_id=act.request_id,
        action=act.action,
        route=act.route,
        resources=resources_text(list(dict.fromkeys(act.on))[:_MOST_IDS]),
        outcome=outcome,
        **{"count": 1, **facts},
    )


def _refusal_row(refusal: Refusal) -> store.AuditRow:
    facts = {"status": refusal.status, "code": refusal.code, "count": refusal.count}
    until = refusal.last if refusal.count > 1 else None
    return _row(refusal.act, Outcome(refusal.outcome), refusal.first, until=until, **facts)


def _outcome(status: int | None) -> Outcome:
    if status is None or status >= 500:
        return Outcome.FAILED
    return Outcome.REFUSED if status >= 400 else Outcome.UNCHANGED


def _nothing() -> None:
    """There was nothing to record."""
