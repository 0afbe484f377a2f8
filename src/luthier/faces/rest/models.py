"""Model versions: list, show, files, download, stages, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Path, Query, Request, Response
from pydantic import Field, model_validator

from luthier.errors import ArtifactCorrupt, CursorInvalid, EvaluationNeeded, FieldInvalid, Gone, InUse, NotFound, RangeInvalid
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import Stream, attachment, file_answer, in_thread
from luthier.faces.rest.wire import After, ChangingActor, CurrentActor, CurrentPlatform, Limit, ModelId, router
from luthier.registry.types import Model, ModelFile, Stage
from luthier.values import Frozen, Page

routes = router("/api/models", "models")

Named = Annotated[str | None, Query(max_length=128, description="Only versions of this name.")]


class Transition(Frozen):
    """Which version goes where: `model` (id, name or `name@3`), or `model_name` with `version`."""

    model: str | None = Field(default=None, min_length=1, max_length=300)
    model_name: str | None = Field(default=None, min_length=1, max_length=128)
    version: str | None = Field(default=None, pattern="^[1-9][0-9]{0,8}$")
    stage: Stage

    @model_validator(mode="after")
    def _one_way(self) -> Transition:
        if (self.model is None) == (self.model_name is None) or (self.model_name is not None and self.version is None):
            raise ValueError("give `model`, or `model_name` and `version`")
        return self

    @property
    def ref(self) -> str:
        """As the registry addresses it."""
        return self.model or f"{self.model_name}@{self.version}"


_PROMOTE = {"promote": {"value": {"model": "support-intents@1", "stage": "Production"}}}
Move = Annotated[Json[Transition], Body(openapi_examples=_PROMOTE)]  # pyright: ignore[reportArgumentType]  # plain dicts
TRANSITION_PROBLEMS = problems(NotFound, Gone, FieldInvalid, EvaluationNeeded)


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_models(
    actor: CurrentActor,
    platform: CurrentPlatform,
    name: Named = None,
    stage: Stage | None = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Model]:
    """All model versions of the caller's team, newest first."""
    return platform.registry.list(actor, name=name, stage=stage, after=after, limit=limit)


@routes.post("/transition", responses=TRANSITION_PROBLEMS)
def transition(move: Move, actor: ChangingActor, platform: CurrentPlatform) -> Model:
    """Move a version to a stage. To Production only if it is proven no worse than its base; the one before is archived."""
    return platform.registry.transition(actor, move.ref, move.stage)


@routes.get("/{model_id}", responses=problems(NotFound, Gone))
def show(model_id: ModelId, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """One version, with its card."""
    return platform.registry.get(actor, model_id)


@routes.delete("/{model_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete(model_id: ModelId, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """Remove a version and its files; refused while it is in Production."""
    platform.registry.delete(actor, model_id)


@routes.get("/{model_id}/files", responses=problems(NotFound, Gone))
def files(model_id: ModelId, actor: CurrentActor, platform: CurrentPlatform) -> list[ModelFile]:
    """Its files with sizes and checksums: adapter, tokenizer, chat template."""
    return platform.registry.files(actor, model_id)


@routes.get("/{model_id}/files/{name}", responses=problems(NotFound, Gone, ArtifactCorrupt, RangeInvalid))
def file(
    model_id: ModelId,
    name: Annotated[str, Path(max_length=255, description="One of the names under `/files`.")],
    actor: CurrentActor,
    platform: CurrentPlatform,
    request: Request,
) -> Response:
    """One file; one byte range is served."""
    facts, opened = platform.registry.open(actor, model_id, name)
    return file_answer(request, lambda: opened, size=facts.bytes, name=facts.name, tag=facts.sha256)


@routes.get("/{model_id}/download", responses=problems(NotFound, Gone, ArtifactCorrupt))
def download(model_id: ModelId, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """All files as one uncompressed tar, in PEFT's format."""
    archive = platform.registry.archive(actor, model_id)
    headers = {"content-length": str(archive.bytes), "content-disposition": attachment(archive.file_name)}
    return Stream(in_thread(archive.chunks), media_type="application/x-tar", headers=headers)
