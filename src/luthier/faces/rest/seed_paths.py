"""Paths that the project's first documents promised, each mapped to the same service as its native route.

A `{user_id}` is the caller's own user or team: it grants nothing, and any other one is as unknown as one that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Path, Request, Response
from pydantic import BaseModel, Field

from luthier.accounts.types import Actor
from luthier.billing.types import Charge, UsageReport
from luthier.datasets.types import Dataset
from luthier.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    CursorInvalid,
    EvaluationNeeded,
    FieldInvalid,
    Gone,
    InUse,
    Invalid,
    ModelNotReady,
    NotFound,
    WillNotFit,
    WrongState,
)
from luthier.experiments.rules import best_of
from luthier.experiments.types import MirroredRun
from luthier.faces.rest import datasets, experiments, jobs, model_downloads, models
from luthier.faces.rest.body import Json, YamlRoute, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.seed_training import EXAMPLES, NoImages, TrainRequest, built_in, digits, lora
from luthier.faces.rest.wire import (
    After,
    CurrentActor,
    CurrentPlatform,
    DatasetId,
    IdempotencyKey,
    JobId,
    Limit,
    router,
)
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Job, JobState, Submitted
from luthier.registry.types import Model
from luthier.values import Page

if TYPE_CHECKING:
    from luthier.wiring import Platform

T = TypeVar("T")
routes = router("", "seed paths", route=YamlRoute)

_PAGE = 200
"""Entries that are read at a time where all are counted."""

UserId = Annotated[str, Path(description="The caller's own user or team id, as `GET /api/me` tells it.")]
_ONE = problems(NotFound, Gone)
_MODEL = problems(NotFound, Gone, ModelNotReady)
_START = problems(NotFound, Gone, FieldInvalid, BudgetExceeded, WillNotFit)


class Started(BaseModel):
    """A run that was queued. `task_id` and `job_id` are the same id."""

    message: str = "Training job accepted and queued"
    job_id: str
    task_id: str
    experiment_name: str
    status: JobState


class GpuMetrics(BaseModel):
    """On what a run trains, and for how long."""

    gpu_type: str
    current_duration_seconds: float


class JobStatus(BaseModel):
    """A run as it stands; `job` has all of it."""

    job_id: str
    task_id: str
    status: JobState
    experiment_name: str
    progress: float = Field(description="0 to 1.")
    gpu_metrics: GpuMetrics
    job: Job


class NamedModel(BaseModel):
    """A name of the registry, and its newest version."""

    name: str
    latest_version: str
    latest_stage: str


class NamedModels(BaseModel):
    """All names of the registry."""

    models: list[NamedModel]
    total_count: int


class BestRun(BaseModel):
    """The run of an experiment that was measured best."""

    run_id: str = Field(description="The id of its job, which `GET /experiments/mlflow/{run_id}` takes too.")
    metrics: dict[str, float]


class Experiment(BaseModel):
    """Runs that were started to be compared."""

    experiment_id: str
    name: str
    total_runs: int
    best_run: BestRun | None = Field(description="By accuracy, or by the loss on held-out rows; none where none was measured.")


class NamedExperiments(BaseModel):
    """The team's experiments, that of the newest run first."""

    experiments: list[Experiment]
    total_count: int


class HourlyPrice(BaseModel):
    """Dollars per hour."""

    cost_per_hour: float


class SeedCost(BaseModel):
    """What a run has cost, as numbers; `/api/billing/job/{job_id}/cost` has it to the micro-dollar."""

    job_id: str
    elapsed_hours: float
    cost_usd: float
    hardware: str
    hourly_rate: float


def _check_own(user_id: str, actor: Actor) -> None:
    if user_id not in {actor.user_id, actor.tenant_id}:
        raise NotFound("user", hint="Use your own id: `GET /api/me` tells it.")


@routes.post("/fine-tune/{user_id}/start", status_code=201, openapi_extra=jobs.YAML_TOO, responses=_START)
def start(
    user_id: UserId, spec: jobs.Spec, key: IdempotencyKey, *, actor: CurrentActor, platform: CurrentPlatform, response: Response
) -> Started:
    """As `POST /api/jobs`."""
    _check_own(user_id, actor)
    return _started(jobs.take(spec, key, actor, platform), response)


@routes.post("/train", responses=_START)
def train(
    wanted: Annotated[Json[TrainRequest], shown_as(EXAMPLES)],
    key: IdempotencyKey,
    actor: CurrentActor,
    platform: CurrentPlatform,
    response: Response,
) -> Started:
    """Fine-tune a base model with LoRA; without `base_model`, train the MNIST classifier."""
    spec = lora(wanted) if wanted.base_model is not None else _digits(wanted, actor, platform)
    return _started(jobs.take(spec, key, actor, platform), response)


@routes.get("/train/jobs", responses=problems(CursorInvalid, FieldInvalid))
def train_jobs(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Job]:
    """As `GET /api/jobs`."""
    return platform.jobs.list(actor, after=after, limit=limit)


@routes.get("/fine-tune/{job_id}/status", responses=_ONE)
@routes.get("/train/status/{job_id}", responses=_ONE)
def status(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> JobStatus:
    """How a run stands."""
    job = platform.jobs.get(actor, job_id)
    seconds = platform.billing.job_cost(actor, job_id).elapsed_seconds
    done = 1.0 if job.state is JobState.SUCCEEDED else job.step / job.total_steps if job.total_steps else 0.0
    return JobStatus(
        job_id=job.id,
        task_id=job.id,
        status=job.state,
        experiment_name=_experiment(job),
        progress=min(1.0, done),
        gpu_metrics=GpuMetrics(gpu_type=job.hardware, current_duration_seconds=seconds),
        job=job,
    )


@routes.get("/task/{task_id}", responses=_ONE)
def task(task_id: str, actor: CurrentActor, platform: CurrentPlatform) -> JobStatus:
    """How a run stands; a task id is a job id."""
    return status(task_id, actor, platform)


@routes.post("/fine-tune/{job_id}/stop", responses=_ONE)
def stop(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """As `POST /api/jobs/{job_id}/stop`."""
    return platform.jobs.stop(actor, job_id)


@routes.get("/models")
def named_models(actor: CurrentActor, platform: CurrentPlatform) -> NamedModels:
    """All names, each with its newest version."""
    newest: dict[str, NamedModel] = {}
    for model in _models(actor, platform):
        named = NamedModel(name=model.name, latest_version=model.version, latest_stage=model.stage)
        newest.setdefault(model.name, named)
    return NamedModels(models=list(newest.values()), total_count=len(newest))


@routes.post("/models/transition", responses={**_MODEL, **problems(EvaluationNeeded, ApprovalNeeded)})
def transition(wanted: models.Transition, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """As `POST /api/models/transition`."""
    return models.transition(wanted, actor, platform)


@routes.get("/experiments")
def named_experiments(actor: CurrentActor, platform: CurrentPlatform) -> NamedExperiments:
    """Trainings by the name that they share (`metadata.experiment`, or their own), and which of each was best."""
    metrics = {model.job_id: _measured(model) for model in _models(actor, platform)}
    runs: dict[str, dict[str, Mapping[str, float]]] = {}
    for job in _every(lambda after: platform.jobs.list(actor, after=after, limit=_PAGE)):
        if job.kind == "train":
            runs.setdefault(_experiment(job), {})[job.id] = metrics.get(job.id, {})
    found = [
        Experiment(
            experiment_id=name,
            name=name,
            total_runs=len(its),
            best_run=BestRun(run_id=best, metrics=dict(its[best])) if (best := best_of(its)) else None,
        )
        for name, its in runs.items()
    ]
    return NamedExperiments(experiments=found, total_count=len(found))


@routes.get("/experiments/mlflow/{run_id}", responses=problems(NotFound))
def mlflow_run(run_id: experiments.RunId, actor: CurrentActor, platform: CurrentPlatform) -> MirroredRun:
    """As `GET /api/experiments/mlflow/{run_id}`."""
    return experiments.run(run_id, actor, platform)


@routes.post("/models/rollback", responses=problems(NotFound, WrongState, FieldInvalid))
def rollback(wanted: models.Rollback, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """As `POST /api/models/rollback`."""
    return models.rollback(wanted, actor, platform)


@routes.get("/models/{user_id}/list", responses=problems(NotFound, CursorInvalid, FieldInvalid))
def user_models(
    user_id: UserId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None
) -> Page[Model]:
    """As `GET /api/models`."""
    _check_own(user_id, actor)
    return platform.registry.list(actor, after=after, limit=limit)


@routes.get("/models/{model_id}/download", response_class=Response, responses=model_downloads.REFUSALS)
def download_model(
    model_id: models.ModelRef,
    actor: CurrentActor,
    platform: CurrentPlatform,
    request: Request,
    *,
    form: model_downloads.Form = None,
    precision: model_downloads.Precision = None,
) -> Response:
    """As `GET /api/models/{model_id}/download`."""
    return model_downloads.download(model_id, actor, platform, request, form=form, precision=precision)


@routes.delete("/models/{model_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete_model(model_id: models.ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """As `DELETE /api/models/{model_id}`."""
    platform.registry.delete(actor, model_id)


_UPLOAD = {**datasets.REFUSALS, **problems(NotFound)}


@routes.post("/datasets/{user_id}/upload", status_code=201, openapi_extra=datasets.BODY, responses=_UPLOAD)
async def upload(
    user_id: UserId,
    request: Request,
    response: Response,
    actor: CurrentActor,
    key: IdempotencyKey,
    *,
    name: datasets.Name = None,
    sha256: datasets.Sha256 = None,
) -> Dataset:
    """As `POST /api/datasets`."""
    _check_own(user_id, actor)
    return await datasets.upload(request, response, actor, key, name=name, sha256=sha256)


@routes.get("/datasets/{user_id}/list", responses=problems(NotFound, CursorInvalid, FieldInvalid))
def user_datasets(
    user_id: UserId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None
) -> Page[Dataset]:
    """As `GET /api/datasets`."""
    _check_own(user_id, actor)
    return platform.datasets.list(actor, after=after, limit=limit)


@routes.delete("/datasets/{dataset_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete_dataset(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """As `DELETE /api/datasets/{dataset_id}`."""
    platform.datasets.delete(actor, dataset_id)


@routes.get("/billing/usage")
def usage(actor: CurrentActor, platform: CurrentPlatform) -> UsageReport:
    """As `GET /api/billing/usage`."""
    return platform.billing.usage(actor)


@routes.get("/billing/history", responses=problems(CursorInvalid, FieldInvalid))
def history(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Charge]:
    """As `GET /api/billing/history`."""
    return platform.billing.history(actor, after=after, limit=limit)


@routes.get("/billing/pricing")
def pricing(_actor: CurrentActor, platform: CurrentPlatform) -> dict[str, HourlyPrice]:
    """Dollars per hour of each hardware, as numbers."""
    return {price.hardware: HourlyPrice(cost_per_hour=float(price.hourly_usd)) for price in platform.billing.prices()}


@routes.get("/billing/job/{job_id}/cost", responses=problems(NotFound))
def job_cost(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> SeedCost:
    """What one run has cost so far, as numbers."""
    cost = platform.billing.job_cost(actor, job_id)
    numbers: dict[str, Any] = {"cost_usd": float(cost.cost_usd), "hourly_rate": float(cost.hourly_usd)}
    return SeedCost(job_id=cost.job_id, elapsed_hours=cost.elapsed_hours, hardware=cost.hardware, **numbers)


def _digits(wanted: TrainRequest, actor: Actor, platform: Platform) -> RunSpec:
    """Of a team's own images; where it has none, of the digits that are built in. Raises: as `digits`, NotFound, Gone."""
    try:
        return digits(wanted, _datasets(wanted, actor, platform))
    except NoImages:
        with suppress(Invalid):  # scikit-learn, which has them, is not installed
            fetched = [platform.imports.take(actor, each) for each in built_in()]
            return digits(wanted, reversed(fetched))
        raise


def _datasets(wanted: TrainRequest, actor: Actor, platform: Platform) -> Iterator[Dataset]:
    """That which is named, or all, newest first. Raises: NotFound, Gone."""
    if wanted.dataset is not None:
        yield platform.datasets.get(actor, wanted.dataset)
        return
    yield from _every(lambda after: platform.datasets.list(actor, after=after, limit=_PAGE))


def _every(page_of: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """All entries of a list, page by page."""
    after: str | None = None
    while True:
        page = page_of(after)
        yield from page.data
        after = page.next_cursor
        if after is None:
            return


def _models(actor: Actor, platform: Platform) -> Iterator[Model]:
    return _every(lambda after: platform.registry.list(actor, after=after, limit=_PAGE))


def _measured(model: Model) -> Mapping[str, float]:
    """Its card's metrics; `accuracy` is that on held-out rows."""
    told = model.card.metrics
    return {"accuracy": told["tuned_accuracy"], **told} if "tuned_accuracy" in told else told


def _experiment(job: Job) -> str:
    return job.spec.metadata.get("experiment") or job.name or job.id


def _started(submitted: Submitted, response: Response) -> Started:
    response.headers.update(jobs.told(submitted))
    job = submitted.job
    return Started(job_id=job.id, task_id=job.id, experiment_name=_experiment(job), status=job.state)
