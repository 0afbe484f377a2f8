"""The mirror: a thread that tells a tracker of jobs and versions. It stands beside the supervisor, never in its tick.

What happened is read from the outbox, and noted as rows; a row is taken by lease, told, and let go of. A tracker that is down
costs tries that come ever later, and nothing else: what it missed is told when it is back. As it may also lose what it had,
everything is told again at the start and every hour: telling the same twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from luthier import ids
from luthier.database import EVERY_TENANT, Database, to_ms
from luthier.errors import LuthierError
from luthier.experiments import mirror_store, rules
from luthier.experiments.service import Experiments
from luthier.jobs.rows import jobs_after, standing_job
from luthier.notifications.outbox import EventRow
from luthier.seams import Clock, Tracker, TrackerUnavailable

_LOG = logging.getLogger("luthier.experiments")
_MOST_EVENTS = 500
_MOST_JOBS = 500
_AT_ONCE = 16
_LEASE = timedelta(minutes=10)
"""Longer than everything about one job takes, each answer waited for ten seconds."""
_OVERLAP = timedelta(seconds=30)
"""An event has its id before its transaction is committed: what was missed then is seen in a later round."""
_IN_ORDER = 3
"""So many failures of a job hold up those after it, so that versions come in the order of their numbers; then it waits alone."""
_MOST_ERROR = 500
_TOO_EARLY = frozenset({"job.queued", "job.validating", "job.awaiting_approval", "job.starting"})
"""Nothing has run yet."""


@dataclass(frozen=True)
class Held:
    """A job that this mirror tells of now."""

    tenant_id: str
    job_id: str
    run_id: str | None
    changes: int
    attempts: int


class Mirror:
    """Any number of them may work on one database."""

    def __init__(
        self, database: Database, experiments: Experiments, tracker: Tracker, now: Clock, *, again_s: float = 3600
    ) -> None:
        self._database = database
        self._experiments = experiments
        self._tracker = tracker
        self._now = now
        self._again = timedelta(seconds=again_s)
        self._all_at = self._since = now()
        self._seen: dict[str, None] = {}
        self._begun = False
        self._rests_until = now()

    def run(self, stop: threading.Event, pause_s: float = 2.0) -> None:
        """Until `stop` is set."""
        while not stop.is_set():
            try:
                self.round()
            except LuthierError as error:  # the database is busy: the next round sees the same
                _LOG.warning("the mirror cannot go on now: %s", error)
            except Exception:  # noqa: BLE001  # the edge of the thread: if it fell, nothing would be mirrored any more
                _LOG.exception("the mirror met an error of its own")
            stop.wait(pause_s)

    def round(self) -> int:
        """Note what happened, and tell of what is due. Returns of how many jobs the tracker was told."""
        now = self._now()
        if not self._begun or now - self._all_at >= self._again:
            self.note_everything()
            self._begun, self._all_at = True, now
        self._note_news()
        if now < self._rests_until:
            return 0
        claimed = self._claimed()
        for place, held in enumerate(claimed):
            if not self._told(held):
                self._let_go(claimed[place + 1 :])
                return place
        return len(claimed)

    def note_everything(self) -> None:
        """Have all jobs told again: what the tracker lost, or somebody changed there, is mended."""
        after: str | None = ""
        while after is not None:
            with self._database.beat() as session:
                page = jobs_after(session, after, _MOST_JOBS)
                self._note(session, page)
            after = page[-1][1] if len(page) == _MOST_JOBS else None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _note_news(self) -> None:
        first = ids.new(ids.EVENT, at_ms=to_ms(self._since - _OVERLAP))
        began = self._now()
        while True:
            with self._database.read(EVERY_TENANT) as session:
                events = mirror_store.events_after(session, first, _MOST_EVENTS)
                unseen = [event for event in events if event.id not in self._seen]
                fresh = [(event.tenant_id, job_id) for event in unseen for job_id in _about(session, event)]
            if fresh:
                with self._database.beat() as session:
                    self._note(session, dict.fromkeys(fresh))
            self._seen |= dict.fromkeys(event.id for event in events)
            if len(events) < _MOST_EVENTS:
                break
            first = events[-1].id
        self._since = began
        oldest = ids.new(ids.EVENT, at_ms=to_ms(began - 2 * _OVERLAP))
        self._seen = {event_id: None for event_id in self._seen if event_id > oldest}

    def _note(self, session: Session, jobs: Iterable[tuple[str, str]]) -> None:
        named = {job_id: tenant_id for tenant_id, job_id in jobs}
        known = mirror_store.known(session, named)
        for job_id, tenant_id in named.items():
            row = known.get(job_id)
            if row is None:
                row = mirror_store.MirrorRow(job_id=job_id, tenant_id=tenant_id, changes=0, attempts=0)
                session.add(row)
            row.changes += 1
            row.next_at = row.next_at or self._now()

    def _claimed(self) -> list[Held]:
        with self._database.read(EVERY_TENANT) as session:
            if not mirror_store.due(session, self._now(), 1):
                return []  # an idle mirror takes no lock
        with self._database.beat() as session:
            rows = sorted(mirror_store.due(session, self._now(), _AT_ONCE), key=lambda row: row.job_id)
            for row in rows:
                row.leased_until = self._now() + _LEASE
            return [Held(row.tenant_id, row.job_id, row.run_id, row.changes, row.attempts) for row in rows]

    def _told(self, held: Held) -> bool:
        """Tell of one job, and note what became of it. False where those after it should wait."""
        began = time.monotonic()
        try:
            run_id, error = self._tell(held), None
        except TrackerUnavailable as unavailable:
            run_id, error = held.run_id, str(unavailable)[:_MOST_ERROR]
            _LOG.warning("%s could not be mirrored after %.1f s: %s", held.job_id, time.monotonic() - began, error)
        with self._database.beat() as session:
            row = mirror_store.by_job(session, held.job_id)
            if row is None:
                return True
            row.run_id, row.error, row.leased_until = run_id, error, None
            if error is None:
                row.attempts, row.mirrored_at = 0, self._now()
                row.next_at = None if row.changes == held.changes else self._now()
                return True
            row.attempts += 1
            row.next_at = again_at = self._now() + timedelta(seconds=rules.backoff_s(row.attempts))
            if row.attempts > _IN_ORDER:
                return True
            self._rests_until = again_at
            return False

    def _let_go(self, held: Iterable[Held]) -> None:
        """What was taken, and not told."""
        with self._database.beat() as session:
            for row in mirror_store.known(session, [each.job_id for each in held]).values():
                row.leased_until = None

    def _tell(self, held: Held) -> str | None:
        with self._database.read(held.tenant_id) as session:
            job = standing_job(session, held.job_id, deleted_too=True)
        if job is None or job.attempt == 0:  # it never ran
            return held.run_id
        run, made = self._experiments.tracked(held.tenant_id, job)
        run_id = self._tracker.put_run(run, held.run_id)
        if made is not None and made.deleted:
            self._tracker.drop_version(rules.version_name(held.tenant_id, made), made.model_id)
        elif made is not None:
            self._tracker.put_version(rules.version_of(held.tenant_id, made, run_id))
        return run_id


def _about(session: Session, event: EventRow) -> list[str]:
    """The jobs of which a tracker holds something else now."""
    data = json.loads(event.data)
    if event.kind.startswith("model."):
        return [f"{ids.JOB}_{str(data.get('model_id')).partition('_')[2]}"]
    if not event.kind.startswith("job.") or event.kind in _TOO_EARLY:
        return []
    job = standing_job(session, str(data.get("job_id")))
    measured = [f"{ids.JOB}_{job.model.partition('_')[2]}"] if job is not None and job.model and job.kind == "evaluate" else []
    return [str(data.get("job_id")), *measured]
