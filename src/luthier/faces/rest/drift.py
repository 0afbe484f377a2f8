"""Drift: whether what models are asked is still like what they learned. Both paths of the status lead here."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from luthier.errors import FieldInvalid, Gone, NotFound
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, Limit, ModelId, router
from luthier.serving.drift.types import DriftStatus, Sample, WatchChange, Watched
from luthier.values import Name, Page

routes = router("/api/drift", "drift")
seed_routes = router("/drift", "seed paths")

_EXAMPLES = {"a tenth": {"summary": "Sample every tenth request", "value": {"share": 0.1}}}
Change = Annotated[Json[WatchChange], shown_as(_EXAMPLES)]


@seed_routes.get("/status", responses=problems(FieldInvalid))
@routes.get("/status", responses=problems(FieldInvalid))
def status(
    actor: CurrentActor,
    platform: CurrentPlatform,
    name: Annotated[Name | None, Query(description="Only versions of this name.")] = None,
) -> DriftStatus:
    """What was found for each version that is watched, with numbers and histograms; those that drifted first."""
    return platform.drift.status(actor, name)


@routes.put("/models/{model_name}", responses=problems(NotFound, FieldInvalid))
def watch(
    model_name: Annotated[Name, Path(description="Name of a model; all its versions are meant.")],
    change: Change,
    actor: CurrentActor,
    platform: CurrentPlatform,
) -> Watched:
    """Sample a share of a model's requests, or none: then those that are kept are removed."""
    return platform.drift.watch(actor, model_name, change.share)


@routes.get("/samples/{model_id}", responses=problems(NotFound, Gone))
def samples(model_id: ModelId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 20) -> Page[Sample]:
    """What is kept of a version's requests, newest first: a few numbers, the answer, a text without personal data."""
    return Page(data=platform.drift.samples(actor, model_id, limit))
