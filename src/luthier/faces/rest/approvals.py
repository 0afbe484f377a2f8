"""Costly runs that wait for an admin."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.errors import FieldInvalid, Forbidden, Gone, NotFound, WrongState
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, JobId, router
from luthier.jobs.types import Job
from luthier.values import Frozen, Text

routes = router("/api/jobs", "jobs")


class Rejection(Frozen):
    """Why a run is not wanted."""

    reason: Annotated[Text, Field(max_length=500)] = Field(default="", examples=["Try it on 1,000 rows first."])


_REASONS = {"reason": {"summary": "With a reason", "value": {"reason": "Try it on 1,000 rows first."}}}
Reason = Annotated[Json[Rejection], shown_as(_REASONS)]


@routes.post("/{job_id}/approve", dependencies=[AdminOnly], responses=problems(NotFound, Gone, WrongState, Forbidden))
def approve(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """Let a run that waits for approval stand in line. `GET /api/jobs?state=awaiting_approval` lists them."""
    return platform.jobs.approvals.approve(actor, job_id)


@routes.post("/{job_id}/reject", dependencies=[AdminOnly], responses=problems(NotFound, Gone, WrongState, FieldInvalid))
def reject(job_id: JobId, wanted: Reason, actor: CurrentActor, platform: CurrentPlatform) -> Job:
    """End a run that waits for approval. What was held for it is free again."""
    return platform.jobs.approvals.reject(actor, job_id, wanted.reason)
