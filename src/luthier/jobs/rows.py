"""From the row of a job to the values that cross borders."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy.orm import Session

from luthier.billing import rules as money
from luthier.jobs import projection, store
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import FINISHED, Chosen, Estimate, Job, JobError, JobState


def spec_of(row: store.JobRow) -> RunSpec:
    """The spec as it was frozen, sources included."""
    return RunSpec.model_validate_json(row.spec)


def job_of(row: store.JobRow, frozen: RunSpec | None = None) -> Job:
    """What faces show. Sources stay inside: they name places in our storage. `frozen` is the row's spec, where it is at hand."""
    spec = frozen or spec_of(row)
    error = None
    if row.error_code is not None:
        error = JobError(code=row.error_code, message=row.error_message or "", hint=row.error_hint or "", param=row.error_param)
    progress: dict[str, Any] = {name: getattr(row, name) for name in _SAME}
    return Job(
        **progress,
        state=JobState(row.state),
        # A limit that ends a job shows in its error, once it has ended.
        wish=next((wish for wish in ("pause", "stop", "cancel") if wish == row.wish), None),
        kind=spec.kind,
        method=spec.method,
        dataset=row.dataset_id or None,
        model=spec.model,
        validation_dataset=row.validation_dataset_id,
        cost_usd=money.usd(row.cost_micro_usd),
        estimated_cost_usd=money.usd(row.estimated_micro_usd),
        error=error,
        spec=spec.model_copy(update={"sources": None}),
        chosen=_chosen(row.estimate) if spec.kind == "train" else None,
    )


def _chosen(estimate: str) -> Chosen | None:
    told = orjson.loads(estimate)
    if not told["rows"]:
        return None
    return Chosen(epochs=told["epochs"], batch_size=told["batch_size"], learning_rate=told.get("learning_rate"))


def job_behind(session: Session, name_or_id: str) -> Job | None:
    """The job of this id, else the newest of this name, where it was not deleted: what a model comes out of."""
    row = store.get(session, name_or_id) or store.newest_named(session, name_or_id)
    return None if row is None or row.deleted_at is not None or row.kind != "train" else job_of(row)


def standing_job(session: Session, job_id: str, *, deleted_too: bool = False) -> Job | None:
    """The job of this id, unless it was deleted."""
    row = store.get(session, job_id)
    return None if row is None or (row.deleted_at is not None and not deleted_too) else job_of(row)


def jobs_after(session: Session, job_id: str, most: int) -> list[tuple[str, str]]:
    """Team and id of jobs that ran, oldest first, from after this one on."""
    return [(row.tenant_id, row.id) for row in store.ran_after(session, job_id, most)]


def exports_of(session: Session, model_id: str, most: int) -> list[Job]:
    """The exports of a model that came to their end, the latest first."""
    return [job_of(row) for row in store.exports_of(session, model_id, most)]


def projection_of(row: store.JobRow, used_ms: int) -> projection.Projection:
    """The top-level `status.json`."""
    return projected(row, job_of(row), Estimate.model_validate_json(row.estimate), used_ms)


def projected(row: store.JobRow, job: Job, estimate: Estimate, used_ms: int) -> projection.Projection:
    """The same, of values that are at hand."""
    progress = 1.0 if job.state == JobState.SUCCEEDED else job.step / job.total_steps if job.total_steps else None
    return projection.Projection(
        tenant_id=row.tenant_id,
        spec_sha256=row.spec_sha256,
        job=job,
        estimate=estimate,
        status=job.state,
        progress=progress,
        gpu_metrics=projection.GpuMetrics(gpu_type=row.hardware, current_duration_seconds=used_ms / 1000),
        current_attempt=f"attempts/{job.attempt}" if job.attempt else None,
    )


def row_of(found: projection.Projection, spec: str) -> store.JobRow:
    """The row of a job whose database was lost. What was running counts as stopped: nobody runs it any more."""
    job = found.job
    state = job.state if job.state in FINISHED else JobState.STOPPED
    values: dict[str, Any] = {name: getattr(job, name) for name in _SAME}
    error = job.error
    return store.JobRow(
        **values,
        tenant_id=found.tenant_id,
        state=state,
        kind=job.kind,
        spec=spec,
        spec_sha256=found.spec_sha256,
        estimate=found.estimate.model_dump_json(),
        dataset_id=job.dataset or "",
        validation_dataset_id=job.validation_dataset,
        queued_at=job.created_at,
        cost_micro_usd=money.micro_usd(job.cost_usd),
        estimated_micro_usd=money.micro_usd(job.estimated_cost_usd),
        error_code=error.code if error else None,
        error_message=error.message if error else None,
        error_hint=error.hint if error else None,
        error_param=error.param if error else None,
    )


_SAME = (
    "id",
    "created_by",
    "name",
    "base_model",
    "hardware",
    "attempt",
    "phase",
    "step",
    "total_steps",
    "epoch",
    "loss",
    "eval_loss",
    "tokens_per_second",
    "eta_seconds",
    "peak_memory_bytes",
    "tokens_seen",
    "model_id",
    "created_at",
    "updated_at",
    "started_at",
    "finished_at",
)
"""Fields that are called and mean the same in the row and in the value."""
