"""Paths that earlier designs promised, each one call to the same service as its native route.

A `{user_id}` in a path authorises nothing: the caller's own user or team id is accepted, any other is unknown.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request, Response
from pydantic import Field

from luthier.accounts.types import Actor
from luthier.billing.types import Charge, JobCost, Price, UsageReport
from luthier.datasets.types import Dataset
from luthier.errors import DatasetNotReady, FieldInvalid, Gone, InUse, NotFound
from luthier.faces.rest import datasets, jobs, models
from luthier.faces.rest.datasets import UPLOAD_BODY, UPLOAD_PROBLEMS, FileName, Sha256, UploadName
from luthier.faces.rest.errors import problems
from luthier.faces.rest.jobs import Spec
from luthier.faces.rest.wire import (
    After,
    ChangingActor,
    CurrentActor,
    CurrentPlatform,
    DatasetId,
    IdempotencyKey,
    JobId,
    Limit,
    ModelId,
    router,
)
from luthier.jobs.types import Job, Submitted
from luthier.registry.types import Model
from luthier.values import Frozen, Page

routes = router("", "seed paths")

UserId = Annotated[str, Path(max_length=64, description="The caller's own user or team id.")]
_ONE = problems(NotFound, Gone)


def own(user_id: str, actor: Actor) -> None:
    """Raises: NotFound for anybody but the caller."""
    if user_id not in {actor.user_id, actor.tenant_id}:
        raise NotFound("user", hint="Use the id that `GET /api/me` tells, or the routes under /api that need none.")


class Accepted(Frozen):
    """A run that was queued, in the words of the seeds."""

    message: str = "Training job accepted and queued"
    job_id: str
    task_id: str
    experiment_name: str
    status: str


@routes.post("/fine-tune/{user_id}/start", status_code=201, responses=problems(NotFound, FieldInvalid, DatasetNotReady))
def start(
    user_id: UserId, spec: Spec, key: IdempotencyKey, actor: ChangingActor, platform: CurrentPlatform, response: Response
) -> Submitted:
    """As `POST /api/jobs`."""
    own(user_id, actor)
    return jobs.submit(spec, key, actor, platform, response)


@routes.get("/fine-tune/{job_id}/status", response_model=Job, responses=_ONE)
def status(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """As `GET /api/jobs/{job_id}`."""
    return jobs.show(job_id, actor, platform, request)


@routes.post("/fine-tune/{job_id}/stop", responses=_ONE)
def stop(job_id: JobId, actor: ChangingActor, platform: CurrentPlatform) -> Job:
    """As `POST /api/jobs/{job_id}/stop`."""
    return platform.jobs.stop(actor, job_id)


@routes.post("/train", responses=problems(NotFound, FieldInvalid, DatasetNotReady))
def train(spec: Spec, key: IdempotencyKey, actor: ChangingActor, platform: CurrentPlatform, response: Response) -> Accepted:
    """Fine-tune a base model. The same fields as `POST /api/jobs`; `base_model` and `dataset` are needed."""
    job = jobs.submit(spec, key, actor, platform, response).job
    return Accepted(job_id=job.id, task_id=job.id, experiment_name=job.name or job.id, status=job.state)


@routes.get("/train/jobs")
def train_jobs(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Job]:
    """As `GET /api/jobs`."""
    return platform.jobs.list(actor, after=after, limit=limit)


@routes.get("/train/status/{job_id}", response_model=Job, responses=_ONE)
def train_status(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """As `GET /api/jobs/{job_id}`."""
    return jobs.show(job_id, actor, platform, request)


@routes.get("/task/{job_id}", response_model=Job, responses=_ONE)
def task(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """As `GET /api/jobs/{job_id}`; a task id is a job id."""
    return jobs.show(job_id, actor, platform, request)


@routes.post("/datasets/{user_id}/upload", status_code=201, openapi_extra=UPLOAD_BODY, responses=UPLOAD_PROBLEMS)
async def upload(
    user_id: UserId,
    request: Request,
    response: Response,
    actor: ChangingActor,
    platform: CurrentPlatform,
    name: UploadName = None,
    sha256: Sha256 = None,
    x_filename: FileName = None,
) -> Dataset:
    """As `POST /api/datasets`."""
    own(user_id, actor)
    return await datasets.upload(request, response, actor, platform, name, sha256, x_filename)


@routes.get("/datasets/{user_id}/list", responses=problems(NotFound))
def list_datasets(
    user_id: UserId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None
) -> Page[Dataset]:
    """As `GET /api/datasets`."""
    own(user_id, actor)
    return platform.datasets.list(actor, after=after, limit=limit)


@routes.delete("/datasets/{dataset_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete_dataset(dataset_id: DatasetId, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """As `DELETE /api/datasets/{dataset_id}`."""
    platform.datasets.delete(actor, dataset_id)


class Line(Frozen):
    """A named model, by its latest version."""

    name: str
    latest_version: str
    latest_stage: str


class Lines(Frozen):
    """All named models of a team."""

    models: tuple[Line, ...]
    total_count: int = Field(ge=0)


@routes.get("/models")
def lines(actor: CurrentActor, platform: CurrentPlatform) -> Lines:
    """The latest version of each name, of the 200 newest versions."""
    latest: dict[str, Model] = {}
    for model in platform.registry.list(actor, limit=200).data:
        latest.setdefault(model.name, model)
    shown = tuple(Line(name=model.name, latest_version=model.version, latest_stage=model.stage) for model in latest.values())
    return Lines(models=shown, total_count=len(shown))


@routes.post("/models/transition", responses=models.TRANSITION_PROBLEMS)
def transition(move: models.Move, actor: ChangingActor, platform: CurrentPlatform) -> Model:
    """As `POST /api/models/transition`."""
    return platform.registry.transition(actor, move.ref, move.stage)


@routes.get("/models/{user_id}/list", responses=problems(NotFound))
def list_models(
    user_id: UserId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None
) -> Page[Model]:
    """As `GET /api/models`."""
    own(user_id, actor)
    return platform.registry.list(actor, after=after, limit=limit)


@routes.get("/models/{model_id}/download", responses=_ONE)
def download(model_id: ModelId, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """As `GET /api/models/{model_id}/download`."""
    return models.download(model_id, actor, platform)


@routes.delete("/models/{model_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete_model(model_id: ModelId, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """As `DELETE /api/models/{model_id}`."""
    platform.registry.delete(actor, model_id)


@routes.get("/billing/pricing")
def pricing(actor: CurrentActor, platform: CurrentPlatform) -> list[Price]:  # noqa: ARG001  # only a known caller may look
    """As `GET /api/billing/pricing`."""
    return platform.billing.prices()


@routes.get("/billing/usage")
def usage(actor: CurrentActor, platform: CurrentPlatform) -> UsageReport:
    """As `GET /api/billing/usage`."""
    return platform.billing.usage(actor)


@routes.get("/billing/history")
def history(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Charge]:
    """As `GET /api/billing/history`."""
    return platform.billing.history(actor, after=after, limit=limit)


@routes.get("/billing/job/{job_id}/cost", responses=problems(NotFound))
def job_cost(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> JobCost:
    """As `GET /api/billing/job/{job_id}/cost`."""
    return platform.billing.job_cost(actor, job_id)
