"""Runs: estimate, submit, watch, stop, resume."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from fastapi import Header, Query, Request, Response
from starlette.responses import PlainTextResponse

from luthier.accounts.types import Actor
from luthier.errors import (
    ArtifactCorrupt,
    BudgetExceeded,
    CursorInvalid,
    DatasetNotReady,
    FieldInvalid,
    ForbiddenField,
    Gone,
    IdempotencyKeyInvalid,
    KeyInFlight,
    KeyReused,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    QuotaExceeded,
    RangeInvalid,
    StorageFull,
    TooLarge,
    UnsupportedType,
    WillNotFit,
    WrongState,
)
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, YamlRoute, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.events import live
from luthier.faces.rest.streaming import Stream, file_answer
from luthier.faces.rest.wire import (
    After,
    CurrentActor,
    CurrentPlatform,
    IdempotencyKey,
    JobId,
    Limit,
    TailBytes,
    idempotency,
    router,
)
from luthier.jobs.directory import Event
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, Job, JobState, Submitted, Transition
from luthier.values import ModelFile, Page

if TYPE_CHECKING:
    from luthier.wiring import Platform

routes = router("/api/jobs", "jobs", route=YamlRoute)

_EXAMPLES = {
    "smallest": {
        "summary": "The least that a run needs",
        "value": {"base_model": "luthier/tiny", "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2"},
    },
    "usual": {
        "summary": "Named, measured on held-out rows, with a limit",
        "value": {
            "base_model": "luthier/tiny",
            "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2",
            "validation_dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r3",
            "name": "support-intents",
            "train": {"epochs": 6, "learning_rate": 5e-4, "batch_size": 8},
            "lora": {"rank": 16, "alpha": 32},
            "limits": {"max_cost_usd": "5.00"},
        },
    },
    "evaluate": {
        "summary": "A model of the registry on other rows, beside the one in Production",
        "value": {
            "kind": "evaluate",
            "model": "support-intents@4",
            "against": "support-intents",
            "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2",
        },
    },
    "export": {
        "summary": "A model as one folder that needs no base beside it",
        "value": {"kind": "export", "model": "support-intents@4", "export": {"format": "merged"}},
    },
}
Spec = Annotated[Json[RunSpec], shown_as(_EXAMPLES, "The run; YAML 1.2 is read as well.")]
_IN_YAML = {
    "schema": {"$ref": "#/components/schemas/RunSpec"},
    "example": "base_model: luthier/tiny\ndataset: ds_01kagz3vqdfyxtqn4w5b9zn8r2\ntrain: {epochs: 6, learning_rate: 5e-4}\n",
}
YAML_TOO = {"requestBody": {"content": {"application/yaml": _IN_YAML}}}
_REFUSALS = (
    NotFound,
    Gone,
    DatasetNotReady,
    ModelNotReady,
    ModelNotAllowed,
    FieldInvalid,
    ForbiddenField,
    TooLarge,
    UnsupportedType,
)
_ONE = problems(NotFound, Gone)


@routes.post("/estimate", dependencies=[ViewersToo], responses=problems(*_REFUSALS), openapi_extra=YAML_TOO)
def estimate(spec: Spec, actor: CurrentActor, platform: CurrentPlatform) -> Estimate:
    """What a run would take: memory, minutes, dollars. Reserves nothing."""
    return platform.jobs.estimate(actor, spec)


@routes.post(
    "",
    status_code=201,
    response_model=Submitted,
    openapi_extra=YAML_TOO,
    responses=problems(*_REFUSALS, IdempotencyKeyInvalid, BudgetExceeded, WillNotFit, KeyReused, KeyInFlight, StorageFull),
)
def submit(spec: Spec, key: IdempotencyKey, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """Queue a run and answer at once. Follow it with `GET /api/jobs/{job_id}/events`."""
    submitted = take(spec, key, actor, platform)
    # Written here: FastAPI takes what a plain function gives it to a thread once more, to hold it against its type.
    body = submitted.model_dump_json().encode()
    return Response(body, status_code=201, headers=told(submitted), media_type="application/json")


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_jobs(
    actor: CurrentActor,
    platform: CurrentPlatform,
    state: Annotated[JobState | None, Query(description="Only those in this state.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Job]:
    """All runs of the caller's team, newest first."""
    return platform.jobs.list(actor, state=state, after=after, limit=limit)


@routes.get("/{job_id}", response_model=Job, responses=_ONE)
def show(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """One run as it stands now. Send the `etag` back as `If-None-Match`: 304 says that nothing changed."""
    return tagged(request, platform.jobs.get(actor, job_id))


@routes.get("/{job_id}/estimate", responses=_ONE)
def submitted_estimate(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Estimate:
    """What the run was expected to take when it was submitted, and what it took (`measured`), once it has ended."""
    return platform.jobs.submitted_estimate(actor, job_id)


@routes.delete("/{job_id}", status_code=204, responses=problems(NotFound, Gone, WrongState))
def delete(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Remove a finished run and its files; what it cost stays in the ledger."""
    platform.jobs.delete(actor, job_id)


@routes.post("/{job_id}/pause", responses=_ONE)
def pause(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """Save a checkpoint and rest, until it is resumed or cancelled. A finished run stays as it is."""
    return platform.jobs.pause(actor, job_id)


@routes.post("/{job_id}/stop", responses=_ONE)
def stop(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """Save a checkpoint and end; it can be resumed. A finished run stays as it is."""
    return platform.jobs.stop(actor, job_id)


@routes.post("/{job_id}/cancel", responses=_ONE)
def cancel(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """End for good, without saving. A finished run stays as it is."""
    return platform.jobs.cancel(actor, job_id)


@routes.post("/{job_id}/resume", responses=problems(NotFound, Gone, WrongState, BudgetExceeded, QuotaExceeded))
def resume(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """Queue a paused, stopped or failed run again; it goes on from its last checkpoint."""
    return platform.jobs.resume(actor, job_id)


@routes.get("/{job_id}/logs", response_class=PlainTextResponse, responses=_ONE)
def logs(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, tail_bytes: TailBytes = 65_536) -> Response:
    """The end of the latest attempt's log, as text."""
    tail = platform.jobs.logs(actor, job_id, tail_bytes=tail_bytes)
    facts = {"x-attempt": str(tail.attempt), "x-total-bytes": str(tail.total_bytes), "x-truncated": str(tail.truncated).lower()}
    return PlainTextResponse(tail.text, headers=facts)


@routes.get("/{job_id}/transitions", responses=_ONE)
def transitions(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Page[Transition]:
    """Through which states it went, oldest first, and why: who approved, rejected or stopped it, what broke."""
    return Page(data=list(platform.jobs.transitions(actor, job_id)))


@routes.get("/{job_id}/files", responses=problems(NotFound, Gone, WrongState, ArtifactCorrupt))
def files(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Page[ModelFile]:
    """What an export made: names, sizes and checksums."""
    return Page(data=platform.jobs.files(actor, job_id))


@routes.get(
    "/{job_id}/files/{name}",
    response_class=Response,
    responses=problems(NotFound, Gone, WrongState, ArtifactCorrupt, RangeInvalid),
)
def file(job_id: JobId, name: str, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """One file of an export, or one range of it."""
    known, opened = platform.jobs.open(actor, job_id, name)
    return file_answer(request, opened, size=known.bytes, name=known.name, tag=known.sha256)


_SSE = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": "id: 1-7\nevent: step\ndata: {}\n\n"}}}}


@routes.get("/{job_id}/events", response_model=list[Event], responses={**problems(NotFound, Gone, CursorInvalid), **_SSE})
def events(
    job_id: JobId,
    actor: CurrentActor,
    platform: CurrentPlatform,
    request: Request,
    *,
    after: Annotated[str | None, Query(max_length=64, description="Only what came after this event id.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=64, description="The same, from a stream that was cut off.")] = None,
) -> Response | list[Event]:
    """What has happened so far, in order. With `Accept: text/event-stream` it goes on live and ends with `event: end`."""
    since = last_event_id or after
    if "text/event-stream" not in request.headers.get("accept", ""):
        return list(platform.jobs.events(actor, job_id, after=since))
    # Asked once before the first byte, so that an unknown job or a bad id is a refusal and not a broken stream.
    next(iter(platform.jobs.events(actor, job_id, after=since)), None)
    pace = request.app.state.pace
    return Stream(live(platform.jobs, actor, job_id, since, pace), media_type="text/event-stream")


def take(spec: RunSpec, key: str | None, actor: Actor, platform: Platform) -> Submitted:
    """What a run and its `Idempotency-Key` come to, for every route that starts one."""
    asked = idempotency(key, spec)
    with platform.accounts.in_flight(actor, key):
        return platform.jobs.submit(actor, spec, asked)


def told(submitted: Submitted) -> dict[str, str]:
    """The headers of the answer."""
    headers = {"location": f"/api/jobs/{submitted.job.id}"}
    return {**headers, "idempotent-replayed": "true"} if submitted.replayed else headers


def tagged(request: Request, value: Job) -> Response:
    """The value with its tag, or 304 where the caller has it already."""
    body = value.model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type="application/json", headers={"etag": tag})
