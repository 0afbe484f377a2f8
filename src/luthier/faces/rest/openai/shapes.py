"""OpenAI's objects, as the official SDK reads them, made of ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from luthier.datasets.types import Dataset
from luthier.jobs.directory import CheckpointRef, Event
from luthier.jobs.types import Job, JobState, Transition

USUAL_LEARNING_RATE = 2e-4
"""What a learning_rate_multiplier of 1 means."""

FileStatus = Literal["uploaded", "processed", "error"]
JobStatus = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]

_FILE_STATUS: Mapping[str, FileStatus] = {"validating": "uploaded", "ready": "processed", "rejected": "error"}
_JOB_STATUS: Mapping[str, JobStatus] = {
    "validating": "validating_files",
    "awaiting_approval": "queued",
    "queued": "queued",
    "paused": "queued",
    "starting": "queued",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "stopped": "cancelled",
    "cancelled": "cancelled",
}
_PARAMS: Mapping[str, str] = {
    "base_model": "model",
    "dataset": "training_file",
    "validation_dataset": "validation_file",
    "name": "suffix",
    "grpo.grader": "method.reinforcement.grader",
    "dpo.beta": "method.dpo.hyperparameters.beta",
    "train.epochs": "method.hyperparameters.n_epochs",
    "train.batch_size": "method.hyperparameters.batch_size",
}
_METHODS: Mapping[str, str] = {"sft": "supervised", "dpo": "dpo", "grpo": "reinforcement"}
_LEVELS: Mapping[str, Literal["info", "warn", "error"]] = {"info": "info", "warning": "warn", "error": "error"}


class FileObject(BaseModel):
    """A file: one version of a dataset."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = None
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"] = "fine-tune"
    status: FileStatus = Field(description="`uploaded` while it is checked, `error` where it was refused.")
    status_details: str | None = Field(default=None, description="What is wrong with it.")


class Deleted(BaseModel):
    """Something that is gone."""

    id: str
    object: str
    deleted: bool = True


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class FineTuningJob(BaseModel):
    """A run."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str]
    method: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str] = []
    seed: int
    status: JobStatus
    trained_tokens: int | None
    training_file: str
    validation_file: str | None


class JobEvent(BaseModel):
    """Something that happened to a run."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class Checkpoint(BaseModel):
    """A saved step of a run."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class ModelObject(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


def seconds(moment: datetime) -> int:
    """Unix seconds."""
    return int(moment.timestamp())


def file_of(dataset: Dataset) -> FileObject:
    """A dataset version as a file. What is wrong with a refused one stands in `status_details`."""
    first = next((each for each in dataset.report.findings if each.severity == "error"), None) if dataset.report else None
    details = f"{first.message} {first.fix}" if first else None
    return FileObject(
        id=dataset.id,
        bytes=dataset.bytes,
        created_at=seconds(dataset.created_at),
        filename=f"{dataset.name}.{(dataset.report and dataset.report.format) or 'jsonl'}",
        status=_FILE_STATUS[dataset.state],
        status_details=details,
    )


def tuned_name(base: str, tenant_id: str, suffix: str | None, model_id: str) -> str:
    """`ft:<base>:<tenant>:<suffix>:<last 8 of the model's id>`.

    >>> tuned_name("luthier/tiny", "team_1", None, "model_0123456789")
    'ft:luthier/tiny:team_1::23456789'
    """
    return f"ft:{base}:{tenant_id}:{suffix or ''}:{model_id[-8:]}"


def job_of(job: Job, tenant_id: str, now: datetime) -> FineTuningJob:
    """A run in OpenAI's shape."""
    running = job.state == JobState.RUNNING and job.eta_seconds is not None
    return FineTuningJob(
        id=job.id,
        created_at=seconds(job.created_at),
        error=_error(job),
        estimated_finish=seconds(now) + int(job.eta_seconds or 0) if running else None,
        fine_tuned_model=tuned_name(job.base_model, tenant_id, job.name, job.model_id) if job.model_id else None,
        finished_at=seconds(job.finished_at) if job.finished_at and job.state != JobState.PAUSED else None,
        hyperparameters=_hyperparameters(job),
        metadata=job.spec.metadata,
        method=_method(job),
        model=job.base_model,
        organization_id=tenant_id,
        result_files=result_files(job),
        seed=job.spec.seed,
        status=_JOB_STATUS[job.state],
        trained_tokens=job.tokens_seen if job.state == JobState.SUCCEEDED else None,
        training_file=job.dataset or "",
        validation_file=job.validation_dataset,
    )


def result_files(job: Job) -> list[str]:
    """The ids of what a run leaves besides its model."""
    return [f"results-{job.id}"] if job.kind == "train" and job.state == JobState.SUCCEEDED else []


def event_of(event: Event) -> JobEvent:
    """An event in OpenAI's shape; what carries numbers of a step is of the type `metrics`."""
    measured = event.kind in ("step", "eval")
    return JobEvent(
        id=f"ftevent-{event.id}",
        created_at=seconds(event.at),
        level=_LEVELS[event.level],
        message=event.message or f"{event.kind} {event.step}",
        type="metrics" if measured else "message",
        data={"step": event.step, **event.data} if measured else dict(event.data),
    )


def step_of(number: int, step: Transition) -> JobEvent:
    """A step of the job's state machine as an event."""
    return JobEvent(
        id=f"ftevent-step-{number}",
        created_at=seconds(step.at),
        level="error" if step.to_state == JobState.FAILED else "info",
        message=f"The job is {step.to_state.replace('_', ' ')}: {step.reason}.",
        type="message",
        data={"status": _JOB_STATUS[step.to_state]},
    )


def checkpoint_of(job: Job, tenant_id: str, saved: CheckpointRef, events: Mapping[int, Event]) -> Checkpoint:
    """A checkpoint, with the losses that were measured at its step."""
    event = events.get(saved.step)
    model = tuned_name(job.base_model, tenant_id, job.name, job.id)
    return Checkpoint(
        id=f"ftckpt-{job.id}-{saved.attempt}-{saved.step}",
        created_at=seconds(event.at if event else job.updated_at),
        fine_tuned_model_checkpoint=f"{model}:ckpt-step-{saved.step}",
        fine_tuning_job_id=job.id,
        metrics=_metrics(saved.step, event),
        step_number=saved.step,
    )


def _metrics(step: int, event: Event | None) -> dict[str, float]:
    names = {"loss": "train_loss", "eval_loss": "full_valid_loss"}
    found = event.data if event else {}
    return {
        "step": step,
        **{name: float(found[ours]) for ours, name in names.items() if isinstance(found.get(ours), int | float)},
    }


def their_param(param: str | None) -> str | None:
    """A field of a run, as these routes call it.

    >>> their_param("dataset"), their_param("grpo.grader.graders"), their_param("seed")
    ('training_file', 'method.reinforcement.grader.graders', 'seed')
    """
    ours = next((name for name in _PARAMS if param == name or (param or "").startswith(f"{name}.")), None)
    return param if param is None or ours is None else _PARAMS[ours] + param[len(ours) :]


def _error(job: Job) -> JobError | None:
    error = job.error
    if error is None:
        return None
    param = their_param(error.param) or ("training_file" if error.code == "bad_data" else None)
    return JobError(code=error.code, message=f"{error.message} {error.hint}".rstrip(), param=param)


def _hyperparameters(job: Job) -> dict[str, Any]:
    train, chosen = job.spec.train, job.chosen
    if chosen is None:
        rate = train.learning_rate
        found: dict[str, Any] = {"n_epochs": train.epochs or "auto", "batch_size": train.batch_size}
    else:
        rate = chosen.learning_rate or train.learning_rate
        found = {"n_epochs": max(1, round(chosen.epochs)), "batch_size": chosen.batch_size}
    return {**found, "learning_rate_multiplier": rate if rate == "auto" else round(rate / USUAL_LEARNING_RATE, 6)}


def _method(job: Job) -> dict[str, Any]:
    spec = job.spec
    kind = _METHODS.get(spec.method, "supervised")
    section: dict[str, Any] = {"hyperparameters": _hyperparameters(job)}
    if spec.dpo:
        section["hyperparameters"]["beta"] = spec.dpo.beta
    if spec.grpo:
        section["grader"] = spec.grpo.grader.model_dump(mode="json")
    return {"type": kind, kind: section}
