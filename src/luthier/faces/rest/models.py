"""Models: list, show, download, delete, move between stages."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import Body, Query, Request, Response
from pydantic import AfterValidator, Field, model_validator

from luthier.errors import ArtifactCorrupt, CursorInvalid, EvaluationNeeded, FieldInvalid, Gone, InUse, NotFound, RangeInvalid
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import Stream, attachment, file_answer, in_thread
from luthier.faces.rest.wire import After, ChangingActor, CurrentActor, CurrentPlatform, Limit, ModelRef, router
from luthier.registry.types import Model, ModelFile, Stage
from luthier.values import Frozen, Page, plain_text

routes = router("/api/models", "models")

_ONE = problems(NotFound, Gone)
_BYTES = {200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
Ref = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain_text)]


class TransitionRequest(Frozen):
    """Which version goes where."""

    model: Ref | None = Field(default=None, description="A model id, or `name@3`.", examples=["support-intents@3"])
    model_name: Ref | None = Field(default=None, description="The name, with `version` beside it.", examples=["support-intents"])
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")] | None = Field(default=None, examples=["3"])
    stage: Stage = Field(description="Production archives the version that was there.")

    @model_validator(mode="after")
    def _names_one_version(self) -> Self:
        if (self.model is None) == (self.model_name is None):
            raise ValueError("give `model`, or `model_name` and `version`")
        if self.model_name is not None and self.version is None:
            raise ValueError("`model_name` needs `version` beside it")
        return self

    @property
    def ref(self) -> str:
        """As the registry addresses it."""
        name = self.model or self.model_name or ""
        return name if self.version is None else f"{name}@{self.version}"


Transition = Annotated[
    Json[TransitionRequest],
    Body(openapi_examples={"promote": {"value": {"model": "support-intents@3", "stage": "Production"}}}),
]


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_models(
    actor: CurrentActor,
    platform: CurrentPlatform,
    name: Annotated[str | None, Query(max_length=128, description="Only versions of this name.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Model]:
    """All model versions of the caller's team, newest first."""
    return platform.registry.list(actor, name=name, after=after, limit=limit)


@routes.post("/transition", responses=problems(NotFound, Gone, EvaluationNeeded, FieldInvalid))
def transition(body: Transition, actor: ChangingActor, platform: CurrentPlatform) -> Model:
    """Move a version to a stage. Production asks for proof that it is no worse than its base, and archives its predecessor."""
    return platform.registry.transition(actor, body.ref, body.stage)


@routes.get("/{model}", responses=_ONE)
def show(model: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Model:
    """One version with its card, by id, by name (its Production) or by `name@3`."""
    return platform.registry.resolve(actor, model)


@routes.delete("/{model}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete(model: ModelRef, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """Delete a version and its files. Refused while it is in Production or something needs it."""
    platform.registry.delete(actor, model)


@routes.get("/{model}/files", responses=_ONE)
def files(model: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> list[ModelFile]:
    """Names, sizes and checksums of a version's files."""
    return platform.registry.files(actor, model)


@routes.get("/{model}/files/{name}", response_class=Response, responses={**problems(NotFound, Gone, RangeInvalid, ArtifactCorrupt), **_BYTES})
def file(model: ModelRef, name: str, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """One file, checked against its checksum first; one `Range` at a time."""
    facts, opened = platform.registry.open(actor, model, name)
    return file_answer(request, lambda: opened, size=facts.bytes, name=facts.name, tag=facts.sha256)


@routes.get("/{model}/download", response_class=Response, responses={**problems(NotFound, Gone, ArtifactCorrupt), **_BYTES})
def download(model: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """All files of a version as one tar."""
    archive = platform.registry.archive(actor, model)
    headers = {"content-length": str(archive.bytes), "content-disposition": attachment(archive.file_name)}
    return Stream(in_thread(archive.chunks), media_type="application/x-tar", headers=headers)
