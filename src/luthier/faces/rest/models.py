"""Tuned models: look, download, promote, remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import Field

from luthier.errors import (
    ApprovalNeeded,
    ArtifactCorrupt,
    CursorInvalid,
    EvaluationNeeded,
    FieldInvalid,
    Gone,
    InUse,
    ModelNotReady,
    NotFound,
    RangeInvalid,
    WrongState,
)
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, Limit, router
from luthier.registry.comparison import Comparison
from luthier.registry.types import Model, Stage
from luthier.values import Frozen, ModelFile, Name, Page, Whole

routes = router("/api/models", "models")

ModelRef = Annotated[str, Path(description="A model id, a name (its Production version), or `name@3`.")]
_ONE = problems(NotFound, Gone, ModelNotReady)


class TransitionRequest(Frozen):
    """Which version goes where."""

    model: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        default=None, description="A model id, or `name@3`; instead of `model_name` and `version`."
    )
    model_name: Name | None = None
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")] | Annotated[Whole, Field(ge=1, le=999_999_999)] | None = None
    stage: Stage

    @property
    def ref(self) -> str:
        """What the registry knows it by. Raises: FieldInvalid where it is named twice, or not at all."""
        pair = (self.model_name, self.version)
        if (self.model is None) == (pair == (None, None)):
            raise FieldInvalid("Name the version once.", hint="Give `model`, or `model_name` and `version`.", param="model")
        if self.model is not None:
            return self.model
        if None in pair:
            missing = "version" if self.version is None else "model_name"
            raise FieldInvalid(f"`{missing}` is missing.", hint="Give `model_name` and `version`.", param=missing, code="missing")
        return f"{self.model_name}@{self.version}"


class RollbackRequest(Frozen):
    """Of which model."""

    model_name: Name = Field(description="The name, whose version in Production is left.")


_EXAMPLES = {
    "by reference": {"summary": "One reference", "value": {"model": "support-intents@3", "stage": "Production"}},
    "by parts": {"summary": "Name and number", "value": {"model_name": "support-intents", "version": "3", "stage": "Archived"}},
}
Transition = Annotated[Json[TransitionRequest], shown_as(_EXAMPLES)]


_BACK = {"by name": {"summary": "The name alone", "value": {"model_name": "support-intents"}}}
Rollback = Annotated[Json[RollbackRequest], shown_as(_BACK)]


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_models(
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    name: Annotated[str | None, Query(max_length=300, description="Only versions of this name.")] = None,
    stage: Annotated[Stage | None, Query(description="Only versions in this stage.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Model]:
    """All model versions of the caller's team, newest first."""
    return platform.registry.list(actor, name=name, stage=stage, after=after, limit=limit)


@routes.post("/transition", responses=problems(NotFound, Gone, ModelNotReady, FieldInvalid, EvaluationNeeded, ApprovalNeeded))
def transition(wanted: Transition, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """Move a version to a stage. Production takes only what was measured to be no worse than its base and than what stands there.

    Where that was not measured, a run that does it is queued, and `error.details.job_id` names it.
    """
    return platform.promotions.transition(actor, wanted.ref, wanted.stage)


@routes.post("/rollback", responses=problems(NotFound, WrongState, FieldInvalid))
def rollback(wanted: Rollback, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """Put back into Production what was there before; what is there now is archived."""
    return platform.registry.rollback(actor, wanted.model_name)


@routes.get("/{model_id}", responses=_ONE)
def show(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """One version, with its card."""
    return platform.registry.resolve(actor, model_id)


@routes.get("/{model_id}/compare", responses=_ONE)
def compare(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Comparison:
    """Base, this version and today's Production on the same held-out rows, and whether it may go to Production."""
    return platform.promotions.compare(actor, model_id)


@routes.delete("/{model_id}", status_code=204, responses=problems(NotFound, Gone, ModelNotReady, InUse))
def delete(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Remove a version and its files. Refused while it is in Production, needed, or answering."""
    platform.registry.delete(actor, model_id)


@routes.get("/{model_id}/files", responses=_ONE)
def files(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Page[ModelFile]:
    """Names, sizes and checksums."""
    return Page(data=platform.registry.files(actor, model_id))


@routes.get(
    "/{model_id}/files/{name}",
    response_class=Response,
    responses=problems(NotFound, Gone, ModelNotReady, ArtifactCorrupt, RangeInvalid),
)
def file(model_id: ModelRef, name: str, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """One file, or one range of it."""
    known, opened = platform.registry.open(actor, model_id, name)
    return file_answer(request, opened, size=known.bytes, name=known.name, tag=known.sha256)
