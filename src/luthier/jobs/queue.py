"""The supervisor's side of the job table: claim, beat, finish, take over. Every write is fenced by attempt and owner."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from luthier.accounts.deeds import by_system
from luthier.accounts.quotas import Quota, Quotas
from luthier.billing.service import Billing
from luthier.billing.types import Segment
from luthier.database import EVERY_TENANT, Database
from luthier.jobs import approvals, projection, rules, sharing, store
from luthier.jobs.approvals import Releases
from luthier.jobs.directory import AttemptStatus
from luthier.jobs.reaping import Beat
from luthier.jobs.rows import job_of, projection_of, spec_of
from luthier.jobs.rules import Outcome, Wish
from luthier.jobs.sharing import ALONE, Sharing, Waiting
from luthier.jobs.spec import RunSpec
from luthier.jobs.store import Fence
from luthier.jobs.types import Estimate, JobState, Line, Taken
from luthier.seams import Clock, Storage

_LOOK_AHEAD = 64
"""Jobs of the queue that are looked at for a gang."""


class Fenced(Exception):
    """Somebody else runs this job by now: write nothing, end the trainer."""


@dataclass(frozen=True)
class Held:
    """A job that this supervisor runs, by claim or by takeover."""

    fence: Fence
    tenant_id: str
    created_by: str
    hardware: str
    spec: RunSpec
    spec_sha256: str
    crashes: int
    wish: Wish | None
    used_ms: int
    """Billed before this attempt."""


@dataclass(frozen=True)
class Seen:
    """Somebody's running job, as the reaper sees it."""

    beat: Beat
    handle: str | None


@dataclass(frozen=True)
class Report:
    """What a supervisor tells about a running job."""

    fence: Fence
    segments: tuple[Segment, ...]
    status: AttemptStatus | None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    outcome: Outcome
    segments: tuple[Segment, ...] = ()
    model_id: str | None = None
    status: AttemptStatus | None = None
    speed: tuple[float, float] | None = None
    """Tokens per second in training and seconds of everything else, where they were measured in one piece."""
    took: Taken | None = None
    """All of it, where it was measured in one piece."""


class JobQueue:
    """Used by supervisors only; what users may do is in `Jobs`."""

    def __init__(  # noqa: PLR0913  # what it stands on, by name
        self,
        database: Database,
        storage: Storage,
        billing: Billing,
        used: Sequence[Releases],
        now: Clock,
        *,
        quotas: Quotas | None = None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._billing = billing
        self._used = used
        self._quotas = quotas
        self._now = now

    @by_system("jobs.claim")
    def claim(self, owner: str, line: Line, allowed: Sharing = ALONE) -> tuple[Held, ...] | None:
        """The job that has waited longest and may start, and those that train with it, each with a new attempt number.

        Nothing where nobody waits; None where the next job of a sweep is awaited for a moment.
        """
        if not self._anybody_waits(line):
            return ()
        with self._database.write(EVERY_TENANT) as session:
            full = self._at_their_quota(session)
            rows = store.in_line(session, line, self._now(), _LOOK_AHEAD if allowed.most > 1 else 1, without=full)
            if not rows:
                return ()
            gang = sharing.gang_of([_waiting(row) for row in rows], allowed)
            if sharing.gathers(gang, self._now(), allowed):
                return None
            by_id = {row.id: row for row in rows}
            return tuple(
                self._held(session, row, owner) for row in (by_id[job.job_id] for job in gang) if self._take(session, row, owner)
            )

    def _anybody_waits(self, line: Line) -> bool:
        """Whether there may be a job to claim. Only reads: an idle supervisor takes no lock, for which submits would wait."""
        with self._database.read(EVERY_TENANT) as session:
            return bool(store.in_line(session, line, self._now(), 1))

    def _at_their_quota(self, session: Session) -> list[str]:
        """The teams of which no more jobs may run now. A gang that starts at once may go beyond by its own size."""
        if self._quotas is None:
            return []
        quotas = self._quotas
        counts = store.running_by_tenant(session)
        limits = {tenant_id: quotas.limit(session, tenant_id, Quota.RUNNING_JOBS) for tenant_id in counts}
        return [tenant_id for tenant_id, limit in limits.items() if limit is not None and counts[tenant_id] >= limit]

    def _take(self, session: Session, row: store.JobRow, owner: str) -> bool:
        step = store.Step(JobState.STARTING, self._now(), "claimed")
        fresh: dict[str, Any] = {"attempt": row.attempt + 1, "owner": owner, "handle": None, "beat_seq": 0, "phase": None}
        if not store.move(session, row, step, **fresh, started_at=self._now(), not_before=None, eta_seconds=None):
            return False
        # No time yet, but the price of now: the first heartbeat comes some seconds later, and a price may change in between.
        # By the order of events: a look at the times of prices would be wrong wherever the clock was set back.
        self._billing.beat(session, Segment(row.tenant_id, row.id, row.attempt, 0, row.hardware, self._now(), 0))
        return True

    def launched(self, fences: Iterable[Fence], handle: str) -> None:
        """Remember the trainer's process, so that whoever takes over can end it. Raises: Fenced, where one was taken over."""
        with self._database.write(EVERY_TENANT) as session:
            mine = [store.change(session, fence, handle=handle) for fence in fences]
        _fenced_unless(all(mine))

    def report(self, reports: Sequence[Report]) -> dict[str, int]:
        """Prove jobs alive and note usage and progress, in one transaction.

        Returns each job's cumulative charge in micro-dollars; a job that is not in it was taken over.
        """
        charges: dict[str, int] = {}
        with self._database.beat() as session:
            for report in reports:
                if store.beat(session, report.fence, **_progress(report.status), updated_at=self._now()):
                    charges[report.fence.job_id] = self._bill(session, report.fence, report.segments)
                    if report.segments:
                        self._within_budgets(session, report.fence)
                    self._running(session, report)
        return charges

    def wishes(self, fences: Iterable[Fence]) -> dict[str, Wish | None]:
        """What is wanted of each of these jobs; a job that is not in it was taken over."""
        wanted = {(fence.job_id, fence.attempt, fence.owner) for fence in fences}
        with self._database.read(EVERY_TENANT) as session:
            rows = store.owned(session)
            return {row.id: _wish(row) for row in rows if (row.id, row.attempt, row.owner) in wanted}

    @by_system("jobs.want")
    def want(self, fence: Fence, wish: Wish) -> None:
        """Note that a job reached a limit of its own. Raises: Fenced."""
        with self._database.write(EVERY_TENANT) as session:
            row = self._mine(session, fence)
            if row.wish is None:
                store.wish(session, row, wish, self._now())

    @by_system("jobs.settle")
    def settle(self, fence: Fence, segments: tuple[Segment, ...]) -> int:
        """Note the last usage and replace the hold by it; safe to repeat. Returns the charge. Raises: Fenced."""
        with self._database.write(EVERY_TENANT) as session:
            row = self._mine(session, fence)
            self._bill(session, fence, segments)
            row.cost_micro_usd = self._billing.settle(session, row.tenant_id, row.id)
            return row.cost_micro_usd

    @by_system("jobs.finish")
    def finish(self, fence: Fence, ending: Ending) -> None:
        """Take the job to its next state and let go of it: done, or back in the queue. Raises: Fenced."""
        outcome = ending.outcome
        with self._database.write(EVERY_TENANT) as session:
            row = self._mine(session, fence)
            cost = self._bill(session, fence, ending.segments)
            if outcome.state == JobState.SUCCEEDED and row.state == JobState.STARTING:
                store.move(session, row, store.Step(JobState.RUNNING, self._now(), "it ran between two looks"))
            values: dict[str, Any] = {
                **_progress(ending.status),
                "owner": None,
                "handle": None,
                "wish": None,
                "eta_seconds": None,
            }
            values["crashes"] = row.crashes + 1 if outcome.crashed else row.crashes
            if outcome.state == JobState.QUEUED:
                values["phase"] = None
                values["not_before"] = self._now() + timedelta(seconds=outcome.delay_s) if outcome.delay_s else None
            else:
                cost = self._billing.settle(session, row.tenant_id, row.id)
                for used in self._used:
                    used.release(session, row.id)
                values |= _result(ending)
                if ending.took is not None:
                    values["estimate"] = _measured(row.estimate, ending.took)
            step = store.Step(outcome.state, self._now(), outcome.reason)
            _fenced_unless(store.move(session, row, step, **values, cost_micro_usd=cost))

    @by_system("jobs.expire")
    def expire(self) -> None:
        """End jobs that nobody approved in time, and give back what was held for them."""
        since = self._now() - approvals.WAITS_FOR
        with self._database.read(EVERY_TENANT) as session:
            if not store.awaiting(session, since):
                return
        with self._database.write(EVERY_TENANT) as session:
            expired = store.awaiting(session, since)
            for row in expired:
                step = store.Step(JobState.CANCELLED, self._now(), f"nobody approved it within {approvals.WAITS_FOR.days} days")
                approvals.Unstarted(self._billing, self._used).end(session, row, step)
        for row in expired:
            self.project(row.id)

    def running(self) -> list[Seen]:
        """All jobs that somebody runs, or says to run."""
        with self._database.read(EVERY_TENANT) as session:
            return [Seen(Beat(row.id, row.attempt, row.owner or "", row.beat_seq), row.handle) for row in store.owned(session)]

    @by_system("jobs.adopt")
    def adopt(self, beat: Beat, owner: str) -> Held | None:
        """Take over a job whose supervisor is gone, with its attempt as it stands; None where it has moved since."""
        with self._database.write(EVERY_TENANT) as session:
            row = store.get(session, beat.job_id)
            seen = None if row is None else Beat(row.id, row.attempt, row.owner or "", row.beat_seq)
            if row is None or seen != beat or not store.adopt(session, row, owner):
                return None
            return self._held(session, row, owner)

    def project(self, job_id: str) -> None:
        """Write the top-level files of the job directory from the row. Fine for a job that is gone."""
        with self._database.read(EVERY_TENANT) as session:
            row = store.get(session, job_id)
            used = self._billing.used_ms(session, job_id)
        if row is not None and row.deleted_at is None:
            here = projection.directory(self._storage, row.tenant_id, row.id)
            projection.publish(here, job_of(row))
            projection.write(here, projection_of(row, used))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _held(self, session: Session, row: store.JobRow, owner: str) -> Held:
        return Held(
            fence=Fence(row.id, row.attempt, owner),
            tenant_id=row.tenant_id,
            created_by=row.created_by,
            hardware=row.hardware,
            spec=spec_of(row),
            spec_sha256=row.spec_sha256,
            crashes=row.crashes,
            wish=_wish(row),
            used_ms=self._billing.used_ms(session, row.id),
        )

    def _mine(self, session: Session, fence: Fence) -> store.JobRow:
        row = store.get(session, fence.job_id)
        if row is None or (row.attempt, row.owner) != (fence.attempt, fence.owner):
            raise Fenced
        return row

    def _bill(self, session: Session, fence: Fence, segments: tuple[Segment, ...]) -> int:
        for segment in segments:
            self._billing.beat(session, segment)
        charge = self._billing.costs(session, [fence.job_id])[fence.job_id]
        store.change(session, fence, cost_micro_usd=charge)
        return charge

    def _within_budgets(self, session: Session, fence: Fence) -> None:
        """A job whose team, user or platform has nothing left saves and stops."""
        if self._billing.over_budget(session, fence.job_id) is None:
            return
        row = self._mine(session, fence)
        if row.wish is None:
            store.wish(session, row, "cap", self._now())

    def _running(self, session: Session, report: Report) -> None:
        """The first status that is more than `starting` makes the job run."""
        if report.status is None or report.status.state == "starting":
            return
        row = store.get(session, report.fence.job_id)
        if row is not None and row.state == JobState.STARTING:
            store.move(session, row, store.Step(JobState.RUNNING, self._now(), "its trainer trains"))


def _waiting(row: store.JobRow) -> Waiting:
    return Waiting(
        job_id=row.id,
        tenant_id=row.tenant_id,
        queued_at=row.queued_at,
        hardware=row.hardware,
        memory=Estimate.model_validate_json(row.estimate).memory,
        alike=_alike(row.hardware, spec_of(row)),
        crashes=row.crashes,
    )


def _alike(hardware: str, spec: RunSpec) -> Hashable | None:
    """What jobs have in common that may share a trainer: the base, how it is held, and switches of the whole process."""
    if spec.sources is None or not spec.has_base or spec.kind != "train":  # no base to share, or no wish to
        return None
    base, train = spec.sources.base, spec.train
    held = (train.device, train.precision, train.quantization)
    return (spec.kind, hardware, base.id, base.revision, base.url, *held, train.deterministic)


def _measured(estimate: str, took: Taken) -> str:
    """For the next estimate, and for whoever asks how good this one was."""
    return Estimate.model_validate_json(estimate).model_copy(update={"measured": took}).model_dump_json()


def _wish(row: store.JobRow) -> Wish | None:
    return next((wish for wish in rules.WISHES if wish == row.wish), None)


def _fenced_unless(mine: bool) -> None:
    if not mine:
        raise Fenced


def _progress(status: AttemptStatus | None) -> dict[str, Any]:
    if status is None:
        return {}
    names = ("phase", "step", "epoch", "loss", "eval_loss", "tokens_per_second", "eta_seconds", "peak_memory_bytes")
    found = {name: getattr(status, name) for name in (*names, "tokens_seen")}
    return found if status.total_steps is None else found | {"total_steps": status.total_steps}


def _result(ending: Ending) -> dict[str, Any]:
    failure, speed = ending.outcome.failure, ending.speed
    return {
        "model_id": ending.model_id,
        "error_code": failure.code if failure else None,
        "error_message": failure.message if failure else None,
        "error_hint": failure.hint if failure else None,
        "measured_tokens_per_second": speed[0] if speed else None,
        "measured_overhead_s": speed[1] if speed else None,
    }
