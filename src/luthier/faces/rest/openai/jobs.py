"""`/v1/fine_tuning`: runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from fastapi import Query, Request

from luthier.accounts.types import Actor
from luthier.errors import (
    BudgetExceeded,
    CursorInvalid,
    DatasetNotReady,
    FieldInvalid,
    Gone,
    KeyInFlight,
    KeyReused,
    ModelNotAllowed,
    NotFound,
    StorageFull,
    WillNotFit,
    WrongState,
)
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.openai.requests import JobCreate, in_their_words, run_of
from luthier.faces.rest.openai.routes import AfterId, Listing, PageLimit, listing, refusals, router
from luthier.faces.rest.openai.shapes import Checkpoint, FineTuningJob, JobEvent, checkpoint_of, event_of, job_of, step_of
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, IdempotencyKey, JobId, idempotency
from luthier.jobs.directory import Event
from luthier.jobs.types import Job

routes = router("fine-tuning (OpenAI)")

_METADATA = re.compile(r"metadata\[(?P<key>[^\]]{1,64})\]")
_ONE = refusals(NotFound, Gone)
_MOST_LOOKED_AT = 5000
"""Runs that a filter goes through for one page."""


Wanted = Annotated[
    Json[JobCreate],
    such_as(model="luthier/tiny", training_file="ds_" + "0" * 26, suffix="support", hyperparameters={"n_epochs": 3}),
]


@routes.post(
    "/fine_tuning/jobs",
    responses=refusals(
        *(NotFound, Gone, DatasetNotReady, ModelNotAllowed, FieldInvalid, BudgetExceeded, WillNotFit),
        *(KeyReused, KeyInFlight, StorageFull),
    ),
)
def create(asked: Wanted, key: IdempotencyKey, actor: CurrentActor, platform: CurrentPlatform) -> FineTuningJob:
    """Queue a run and answer at once. On a file that is still being checked it waits in `validating_files`."""
    with platform.accounts.in_flight(actor, key), in_their_words():
        submitted = platform.jobs.submit(actor, run_of(asked), idempotency(key, asked), patient=True)
    return job_of(submitted.job, actor.tenant_id, platform.now())


@routes.get("/fine_tuning/jobs", responses=refusals(CursorInvalid, FieldInvalid))
def list_jobs(
    request: Request,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    limit: PageLimit = 20,
    after: AfterId = None,
    metadata: Annotated[Literal["null"] | None, Query(description="`null`: those that carry none.")] = None,
) -> Listing[FineTuningJob]:
    """The team's runs, newest first; `metadata[key]=value` keeps those that carry it."""
    wanted = {match["key"]: value for name, value in request.query_params.items() if (match := _METADATA.fullmatch(name))}
    matching = _matching(platform, actor, after, None if metadata == "null" else wanted)
    jobs = [job for _, job in zip(range(limit + 1), matching, strict=False)]
    shown = [job_of(job, actor.tenant_id, platform.now()) for job in jobs[:limit]]
    return listing(shown, [job.id for job in shown], more=len(jobs) > limit)


@routes.get("/fine_tuning/jobs/{job_id}", responses=_ONE)
def retrieve(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> FineTuningJob:
    """One run as it stands now."""
    return job_of(platform.jobs.get(actor, job_id), actor.tenant_id, platform.now())


@routes.post("/fine_tuning/jobs/{job_id}/cancel", responses=_ONE)
def cancel(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> FineTuningJob:
    """End a run for good. A finished one stays as it is."""
    return job_of(platform.jobs.cancel(actor, job_id), actor.tenant_id, platform.now())


@routes.post("/fine_tuning/jobs/{job_id}/pause", responses=_ONE)
def pause(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> FineTuningJob:
    """Save a checkpoint and rest. A finished one stays as it is."""
    return job_of(platform.jobs.pause(actor, job_id), actor.tenant_id, platform.now())


@routes.post("/fine_tuning/jobs/{job_id}/resume", responses=refusals(NotFound, Gone, WrongState, BudgetExceeded, DatasetNotReady))
def resume(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> FineTuningJob:
    """Go on from the last checkpoint."""
    return job_of(platform.jobs.resume(actor, job_id), actor.tenant_id, platform.now())


@routes.get("/fine_tuning/jobs/{job_id}/events", responses=refusals(NotFound, Gone, CursorInvalid))
def events(
    job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, limit: PageLimit = 20, after: AfterId = None
) -> Listing[JobEvent]:
    """What happened, newest first."""
    steps = [(step.at, step_of(number, step)) for number, step in enumerate(platform.jobs.transitions(actor, job_id))]
    told = [(event.at, event_of(event)) for event in platform.jobs.events(actor, job_id)]
    in_order = [event for _, event in sorted([*steps, *told], key=lambda pair: pair[0])]
    rest = _after(in_order[::-1], after)
    return listing(rest[:limit], [event.id for event in rest[:limit]], more=len(rest) > limit)


@routes.get("/fine_tuning/jobs/{job_id}/checkpoints", responses=refusals(NotFound, Gone, CursorInvalid))
def checkpoints(
    job_id: JobId, actor: CurrentActor, platform: CurrentPlatform, limit: PageLimit = 10, after: AfterId = None
) -> Listing[Checkpoint]:
    """The complete checkpoints that are kept, newest first."""
    job = platform.jobs.get(actor, job_id)
    measured = _by_step(platform.jobs.events(actor, job_id))
    found = [checkpoint_of(job, actor.tenant_id, saved, measured) for saved in platform.jobs.checkpoints(actor, job_id)]
    places = {each.id: place for place, each in enumerate(found)}
    if after is not None and after not in places:
        raise CursorInvalid
    rest = found if after is None else found[places[after] + 1 :]
    return listing(rest[:limit], [each.id for each in rest[:limit]], more=len(rest) > limit)


def _matching(platform: CurrentPlatform, actor: Actor, after: str | None, wanted: Mapping[str, str] | None) -> Iterator[Job]:
    """Runs that train and carry this metadata, or none at all where that is wanted; newest first."""
    looked_at = 0
    while looked_at < _MOST_LOOKED_AT:
        page = platform.jobs.list(actor, after=after, limit=200)
        for job in page.data:
            carried = job.spec.metadata
            if job.kind == "train" and (not carried if wanted is None else wanted.items() <= carried.items()):
                yield job
        after, looked_at = page.next_cursor, looked_at + len(page.data)
        if after is None:
            return


def _after(newest_first: list[JobEvent], after: str | None) -> list[JobEvent]:
    """What comes behind the event of this id. Raises: CursorInvalid."""
    if after is None:
        return newest_first
    for place, event in enumerate(newest_first):
        if event.id == after:
            return newest_first[place + 1 :]
    raise CursorInvalid


def _by_step(events: Iterator[Event]) -> dict[int, Event]:
    """The losses of each step, in one event."""
    found: dict[int, Event] = {}
    for event in events:
        if event.kind in ("step", "eval"):
            before = found.get(event.step)
            found[event.step] = event.model_copy(update={"data": {**(before.data if before else {}), **event.data}})
    return found
