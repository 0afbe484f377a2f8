"""Costly jobs wait until an admin has looked at them. Their money is held meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts.types import Actor
from luthier.billing.service import Billing
from luthier.database import Database
from luthier.errors import Forbidden, Gone, NotFound
from luthier.jobs import projection, rules, store
from luthier.jobs.rows import job_of, projection_of
from luthier.jobs.types import Job, JobState
from luthier.notifications import outbox
from luthier.seams import Clock, Storage
from luthier.values import usd

WAITS_FOR = timedelta(days=7)


@dataclass(frozen=True)
class ApprovalRule:
    """Which jobs wait for an admin, and whether that must be another person than who submitted it."""

    above_micro_usd: int = 10_000_000
    second_person: bool = False

    def first_state(self, estimated_micro_usd: int) -> JobState:
        """Where a job begins that is expected to cost this much."""
        return JobState.AWAITING_APPROVAL if estimated_micro_usd > self.above_micro_usd else JobState.QUEUED


class Releases(Protocol):
    """What a job that ends needs of datasets and models: that they let go of what it used."""

    def release(self, session: Session, by: str) -> None: ...


@dataclass(frozen=True)
class Unstarted:
    """Ends jobs that nobody runs: what they hold is given back, and what they use is let go of."""

    billing: Billing
    used: Sequence[Releases]

    def end(self, session: Session, row: store.JobRow, step: store.Step, /, **values: Any) -> None:
        cost = self.billing.settle(session, row.tenant_id, row.id)
        for used in self.used:
            used.release(session, row.id)
        store.move(session, row, step, cost_micro_usd=cost, **values)


class Approvals:
    """What an admin says of jobs that wait."""

    def __init__(self, database: Database, storage: Storage, unstarted: Unstarted, rule: ApprovalRule, now: Clock) -> None:
        self._database = database
        self._storage = storage
        self._unstarted = unstarted
        self._rule = rule
        self._now = now

    def approve(self, actor: Actor, job_id: str) -> Job:
        """Let it stand in line. One that was approved before stays as it is. Raises: NotFound, Gone, WrongState, Forbidden."""
        with self._database.write(actor.tenant_id) as session:
            row = _waiting(session, job_id, "approved")
            if self._rule.second_person and row.created_by == actor.user_id:
                raise Forbidden("Somebody else must approve this job: you submitted it.", hint="Ask another admin.")
            step = store.Step(JobState.QUEUED, self._now(), f"approved by {actor.user_id}")
            store.move(session, row, step, queued_at=self._now())
            return self._projected(session, row)

    def reject(self, actor: Actor, job_id: str, reason: str = "") -> Job:
        """End it for good, and give back what was held. Raises: NotFound, Gone, WrongState."""
        with self._database.write(actor.tenant_id) as session:
            row = _waiting(session, job_id, "rejected")
            said = f": {reason}" if reason else ""
            self._unstarted.end(session, row, store.Step(JobState.CANCELLED, self._now(), f"rejected by {actor.user_id}{said}"))
            return self._projected(session, row)

    def _projected(self, session: Session, row: store.JobRow) -> Job:
        used = self._unstarted.billing.used_ms(session, row.id)
        projection.write(projection.directory(self._storage, row.tenant_id, row.id), projection_of(row, used))
        return job_of(row)


def ask(session: Session, row: store.JobRow) -> None:
    """Tell the admins of a job that waits for them."""
    asked = {"job_id": row.id, "name": row.name, "created_by": row.created_by, "kind": row.kind, "hardware": row.hardware}
    news = {**asked, "estimated_usd": usd(row.estimated_micro_usd)}
    outbox.publish(session, row.tenant_id, "approval.asked", news, at=row.created_at)


def _waiting(session: Session, job_id: str, verb: str) -> store.JobRow:
    row = store.get(session, job_id) if ids.is_id(job_id, ids.JOB) else None
    if row is None:
        raise NotFound("job")
    if row.deleted_at is not None:
        raise Gone("job")
    if row.state != JobState.AWAITING_APPROVAL:
        raise rules.refusal(verb, JobState(row.state), "Only a job that waits for approval can be.")
    return row
