"""Tables of jobs and of their steps, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import JSON, BigInteger, Index, bindparam, case, func, or_, select, type_coerce, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Database, Row, TenantOwned, UtcTime, insert, look_in
from luthier.jobs import rules
from luthier.jobs.spec import SHORT_KINDS
from luthier.jobs.types import FINISHED, JobState, Line, Listed
from luthier.notifications import outbox

_OWNED = (JobState.STARTING, JobState.RUNNING)
_RECENT_JOBS = 5
_CALIBRATING_JOBS = 20


class JobRow(TenantOwned, Row):
    """A job: who wants it, where it stands, who runs it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_in_line", "state", "queued_at"),
        Index("jobs_of_team_in_state", "tenant_id", "state", "deleted_at"),
        Index("jobs_of_team", "tenant_id", "id"),  # a page: by the team alone all of its jobs would be read and sorted
        # For every estimate. The order is that of `measured` and `calibrating`; what they compare follows, so that no row is
        # read in vain: of 100,000 jobs, none of which had ended, they read 400 MB for each submit.
        Index("jobs_alike", "base_model", "hardware", "id", "kind", "state", "error_code", "measured_tokens_per_second"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    created_by: Mapped[str]
    name: Mapped[str | None]
    state: Mapped[str]
    wish: Mapped[str | None]
    kind: Mapped[str] = mapped_column(server_default="train")
    spec: Mapped[str]
    """`run.yaml` as JSON, sources included."""
    spec_sha256: Mapped[str]
    estimate: Mapped[str]
    base_model: Mapped[str]
    dataset_id: Mapped[str]
    validation_dataset_id: Mapped[str | None]
    hardware: Mapped[str]

    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None]
    handle: Mapped[str | None]
    beat_seq: Mapped[int] = mapped_column(default=0)
    queued_at: Mapped[datetime] = mapped_column(UtcTime)
    not_before: Mapped[datetime | None] = mapped_column(UtcTime)

    phase: Mapped[str | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    epoch: Mapped[float] = mapped_column(default=0.0)
    loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    tokens_per_second: Mapped[float | None]
    eta_seconds: Mapped[float | None]
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    tokens_seen: Mapped[int | None] = mapped_column(BigInteger)
    cost_micro_usd: Mapped[int] = mapped_column(BigInteger, default=0)
    estimated_micro_usd: Mapped[int] = mapped_column(BigInteger)
    measured_tokens_per_second: Mapped[float | None]
    measured_overhead_s: Mapped[float | None]

    model_id: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    error_hint: Mapped[str | None]
    error_param: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    updated_at: Mapped[datetime] = mapped_column(UtcTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)


class TransitionRow(TenantOwned, Row):
    """A step of a job's state machine. Rows are only ever added."""

    __tablename__ = "job_transitions"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(index=True)
    attempt: Mapped[int]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    at: Mapped[datetime] = mapped_column(UtcTime)
    reason: Mapped[str]


@dataclass(frozen=True)
class Fence:
    """Who writes: nothing happens where the job has another attempt or owner by now."""

    job_id: str
    attempt: int
    owner: str


@dataclass(frozen=True)
class Step:
    """A step of the state machine, and why it is taken."""

    to: JobState
    at: datetime
    reason: str


def add(session: Session, row: JobRow, reason: str) -> None:
    """A new job, and the first line of its history."""
    insert(session, row)
    _record(session, row, None, Step(JobState(row.state), row.created_at, reason))


# Made once: building it takes longer than running it, and every poll runs it.
_BY_ID = select(JobRow).where(JobRow.id == bindparam("job_id")).execution_options(populate_existing=True)


def get(session: Session, job_id: str) -> JobRow | None:
    return session.scalar(_BY_ID, {"job_id": job_id})


_LOOKED_AT = select(JobRow.__table__).where(JobRow.id == bindparam("job_id"), JobRow.deleted_at.is_(None))


def look(database: Database, tenant_id: str, job_id: str) -> JobRow | None:
    """A tenant's job, to be read and not to be written: what `Database.look` finds has the row's columns, and no session."""
    found = database.look(tenant_id, _LOOKED_AT, {"job_id": job_id})
    return cast("JobRow", found[0]) if found else None


def move(session: Session, row: JobRow, step: Step, /, **values: Any) -> bool:
    """Take a step from the state in `row`, and write its history; False where the job is no longer as `row` says.

    Raises: ValueError for a step that the state machine does not have.
    """
    before = JobState(row.state)
    if not rules.may(before, step.to):
        raise ValueError(f"a job does not go from {before} to {step.to}")
    finished = step.at if step.to in FINISHED else None
    query = update(JobRow).where(JobRow.id == row.id, JobRow.state == before, JobRow.attempt == row.attempt)
    query = query.where(JobRow.owner.is_(None) if row.owner is None else JobRow.owner == row.owner)
    changed = query.values(state=step.to, updated_at=step.at, finished_at=finished, **values).returning(JobRow.id)
    if session.execute(changed, execution_options={"synchronize_session": False}).first() is None:
        return False
    session.refresh(row)
    _record(session, row, before, step)
    return True


def change(session: Session, fence: Fence, /, **values: Any) -> bool:
    """Write into a running job without a step; False where somebody else owns it."""
    query = update(JobRow).where(
        JobRow.id == fence.job_id, JobRow.attempt == fence.attempt, JobRow.owner == fence.owner, JobRow.state.in_(_OWNED)
    )
    return session.execute(query.values(**values).returning(JobRow.id)).first() is not None


def beat(session: Session, fence: Fence, /, **values: Any) -> bool:
    """Prove a running job alive; False where somebody else owns it."""
    return change(session, fence, beat_seq=JobRow.beat_seq + 1, **values)


def adopt(session: Session, seen: JobRow, owner: str) -> bool:
    """Take a running job over from an owner that did not move since it was `seen`; False where it did."""
    query = update(JobRow).where(
        JobRow.id == seen.id,
        JobRow.attempt == seen.attempt,
        JobRow.owner == seen.owner,
        JobRow.beat_seq == seen.beat_seq,
        JobRow.state.in_(_OWNED),
    )
    return session.execute(query.values(owner=owner, beat_seq=seen.beat_seq + 1).returning(JobRow.id)).first() is not None


def in_line(session: Session, line: Line, now: datetime, most: int, *, without: Sequence[str] = ()) -> Sequence[JobRow]:
    """The jobs that may start, the one that has waited longest first. A moment far ahead means that the clock was put back:
    it counts as past."""
    waits = or_(
        JobRow.not_before.is_(None),
        JobRow.not_before <= now,
        JobRow.not_before > now + timedelta(seconds=2 * rules.LONGEST_RETRY_S),
    )
    query = select(JobRow).where(JobRow.state == JobState.QUEUED, JobRow.hardware.in_(line.hardware), waits)
    query = query.where(JobRow.tenant_id.not_in(without))
    query = query.where(JobRow.kind.in_(SHORT_KINDS) if line.short else JobRow.kind.not_in(SHORT_KINDS))
    return session.scalars(query.order_by(JobRow.queued_at, JobRow.id).limit(most)).all()


def in_state(session: Session, state: JobState) -> Sequence[JobRow]:
    """All jobs in this state, the oldest first."""
    return session.scalars(visible(state).order_by(JobRow.id).execution_options(populate_existing=True)).all()


def awaiting(session: Session, since: datetime) -> Sequence[JobRow]:
    """The jobs that have waited for approval since before this moment."""
    query = select(JobRow).where(JobRow.state == JobState.AWAITING_APPROVAL, JobRow.created_at < since)
    return session.scalars(query.execution_options(populate_existing=True)).all()


_UNFINISHED = select(func.count().label("jobs")).where(
    JobRow.tenant_id == bindparam("tenant"),
    JobRow.deleted_at.is_(None),
    # Named one by one: an index finds what is in these states, and would have to read all that is not in the others.
    JobRow.state.in_([state for state in JobState if state not in FINISHED]),
)


def unfinished(session: Session, tenant_id: str) -> int:
    """How many jobs of a tenant wait or run."""
    return look_in(session, _UNFINISHED, {"tenant": tenant_id})[0].jobs


def evaluating(session: Session, model_id: str) -> Sequence[JobRow]:
    """Runs of the kind evaluate that have not ended and whose spec names this model."""
    query = select(JobRow).where(JobRow.kind == "evaluate", JobRow.deleted_at.is_(None))
    query = query.where(JobRow.spec.contains(model_id, autoescape=True))
    query = query.where(JobRow.state.in_([state for state in JobState if state not in FINISHED]))
    return session.scalars(query.order_by(JobRow.id)).all()


def ran_after(session: Session, job_id: str, most: int) -> Sequence[JobRow]:
    """Jobs that were started at least once and are still there, in the order of their ids."""
    query = select(JobRow).where(JobRow.id > job_id, JobRow.attempt > 0, JobRow.deleted_at.is_(None))
    return session.scalars(query.order_by(JobRow.id).limit(most)).all()


def running_by_tenant(session: Session) -> dict[str, int]:
    """How many jobs run, of each tenant that has one."""
    query = select(JobRow.tenant_id, func.count()).where(JobRow.state.in_(_OWNED)).group_by(JobRow.tenant_id)
    return {row[0]: row[1] for row in session.execute(query)}


def running(session: Session, tenant_id: str) -> int:
    """How many jobs of a tenant run."""
    query = select(func.count()).select_from(JobRow).where(JobRow.tenant_id == tenant_id, JobRow.state.in_(_OWNED))
    return session.scalar(query) or 0


def tokens_since(session: Session, tenant_id: str, moment: datetime) -> int:
    """The estimated tokens of a tenant's jobs queued, or queued again, since then; not of those that ended before they began."""
    began = or_(JobRow.attempt > 0, JobRow.state.not_in(FINISHED))
    tokens = func.sum(type_coerce(JobRow.estimate, JSON)["tokens"].as_integer())
    return session.scalar(select(tokens).where(JobRow.tenant_id == tenant_id, JobRow.queued_at >= moment, began)) or 0


def owned(session: Session) -> Sequence[JobRow]:
    """All jobs that somebody runs, or says to run."""
    return session.scalars(select(JobRow).where(JobRow.state.in_(_OWNED)).execution_options(populate_existing=True)).all()


def ending_in(session: Session, tail: str) -> JobRow | None:
    """The job whose id ends so, where it was not deleted."""
    return session.scalar(visible().where(JobRow.id.endswith(tail, autoescape=True)).order_by(JobRow.id.desc()).limit(1))


def newest_named(session: Session, name: str) -> JobRow | None:
    """Of those from which a model of this name comes out."""
    return session.scalar(visible().where(JobRow.name == name, JobRow.kind == "train").order_by(JobRow.id.desc()).limit(1))


def exports_of(session: Session, model_id: str, most: int) -> Sequence[JobRow]:
    """The exports of a model that came to their end, the latest first."""
    of_model = type_coerce(JobRow.spec, JSON)["model"].as_string() == model_id
    return session.scalars(
        visible(JobState.SUCCEEDED).where(JobRow.kind == "export", of_model).order_by(JobRow.id.desc()).limit(most)
    ).all()


def visible(state: JobState | None = None) -> Any:
    """The query of a list: what was not deleted, in any state or in this one."""
    query = select(JobRow).where(JobRow.deleted_at.is_(None))
    return query if state is None else query.where(JobRow.state == state)


def listing(session: Session) -> Iterator[Listed]:
    """All that were not deleted, newest first, a thousand in memory at a time."""
    row = JobRow
    columns = (row.id, row.model_id, row.dataset_id, row.state, row.created_at, row.updated_at)
    query = select(*columns).where(row.deleted_at.is_(None)).order_by(row.id.desc())
    return (Listed(*found) for found in session.execute(query).yield_per(1000))


def names(session: Session, job_ids: Iterable[str]) -> dict[str, str]:
    """What jobs are called, also deleted ones; those without a name are left out."""
    query = select(JobRow.id, JobRow.name).where(JobRow.id.in_(list(job_ids)), JobRow.name.is_not(None))
    return {job_id: str(name) for job_id, name in session.execute(query).all()}


def history(session: Session, job_id: str) -> Sequence[TransitionRow]:
    return session.scalars(select(TransitionRow).where(TransitionRow.job_id == job_id).order_by(TransitionRow.id)).all()


_ALIKE = (JobRow.base_model == bindparam("base_model"), JobRow.hardware == bindparam("hardware"))
_MEASURED = (
    select(*JobRow.__table__.c["measured_tokens_per_second", "measured_overhead_s"])
    .where(*_ALIKE, JobRow.measured_tokens_per_second > 0)
    .order_by(JobRow.id.desc())
    .limit(_RECENT_JOBS)
)
_CALIBRATING = (
    select(JobRow.__table__)
    .where(*_ALIKE, JobRow.kind == bindparam("kind"))
    .where(or_(JobRow.state == JobState.SUCCEEDED, JobRow.error_code == "out_of_memory"))
    .order_by(JobRow.id.desc())
    .limit(_CALIBRATING_JOBS)
)


def measured(database: Database, tenant_id: str, base_model: str, hardware: str) -> list[tuple[float, float]]:
    """Speed and overhead of the latest finished jobs with this base on this hardware."""
    rows = database.look(tenant_id, _MEASURED, {"base_model": base_model, "hardware": hardware})
    return [(float(row.measured_tokens_per_second or 0), float(row.measured_overhead_s or 0)) for row in rows]


def calibrating(database: Database, tenant_id: str, base_model: str, hardware: str, kind: str) -> Sequence[JobRow]:
    """The latest jobs of this kind with this base on this hardware that came to their end, the latest first. To be read only."""
    values = {"base_model": base_model, "hardware": hardware, "kind": kind}
    return cast("Sequence[JobRow]", database.look(tenant_id, _CALIBRATING, values))


def known(session: Session, job_ids: Iterable[str]) -> set[str]:
    return set(session.scalars(select(JobRow.id).where(JobRow.id.in_(list(job_ids)))))


def wish(session: Session, row: JobRow, wish: rules.Wish, at: datetime) -> None:
    """Note what the owner of a running job wants. A cancel overrides a stop, and nothing overrides a cancel."""
    later = case((JobRow.wish == "cancel", "cancel"), else_=wish)
    query = update(JobRow).where(JobRow.id == row.id, JobRow.state.in_(_OWNED)).values(wish=later, updated_at=at)
    session.execute(query, execution_options={"synchronize_session": False})
    session.refresh(row)


def _record(session: Session, row: JobRow, before: JobState | None, step: Step) -> None:
    insert(
        session,
        TransitionRow(
            tenant_id=row.tenant_id,
            job_id=row.id,
            attempt=row.attempt,
            from_state=before,
            to_state=step.to,
            at=step.at,
            reason=step.reason,
        ),
    )
    # What is finished when it is added was found by a reindex: nobody waits for that news.
    if before is not None or step.to not in FINISHED:
        outbox.publish(session, row.tenant_id, f"job.{step.to}", _news(row, before, step), at=step.at)


def _news(row: JobRow, before: JobState | None, step: Step) -> dict[str, Any]:
    failure = {"code": row.error_code, "message": row.error_message, "hint": row.error_hint} if row.error_code else None
    return {
        "job_id": row.id,
        "name": row.name,
        "kind": row.kind,
        "state": step.to,
        "from_state": before,
        "reason": step.reason,
        "attempt": row.attempt,
        "created_by": row.created_by,
        "base_model": row.base_model,
        "model_id": row.model_id,
        "cost_micro_usd": row.cost_micro_usd,
        "error": failure,
    }
