"""Models into service elsewhere: targets, deployments, and links to their files."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from pydantic import Field

from luthier.accounts.types import Actor, Role
from luthier.errors import (
    ArtifactCorrupt,
    DeployRefused,
    Forbidden,
    Gone,
    ModelNotReady,
    NotExported,
    NotFound,
    NotInProduction,
    RangeInvalid,
    WrongState,
)
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.models import ModelRef
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.registry.deploys import WEBHOOK, Deployed, Target, Wish
from luthier.registry.links import LONGEST, Linked
from luthier.values import Frozen, Page, Whole

routes = router("", "models")
_MODEL = (NotFound, Gone, ModelNotReady, NotExported, ArtifactCorrupt)
Precision = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,16}$")]


class DeployRequest(Frozen):
    """Where to, and what of it."""

    target: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        default=WEBHOOK, description="One of `GET /api/models/targets`; `webhook` writes nothing and tells endpoints."
    )
    stage: Literal["Production", "any"] = Field(default="Production", description="`any`: also a version that is elsewhere.")
    precision: Precision | None = Field(default=None, description="Which of its GGUF exports; left out, the newest.")


class LinkRequest(Frozen):
    """A link to which file, and for how long."""

    precision: Precision | None = Field(default=None, description="Which of its GGUF exports; left out, the newest.")
    seconds: Annotated[Whole, Field(ge=1, le=int(LONGEST.total_seconds()))] = Field(
        default=3600, description="How long it opens."
    )


class Link(Frozen):
    """A file that a program can fetch without a key."""

    url: str
    until: datetime
    bytes: int
    sha256: str


_EXAMPLES = {"to a repository": {"summary": "To a repository", "value": {"target": "serverless-llm", "precision": "q4_k_m"}}}
Asked = Annotated[Json[DeployRequest], shown_as(_EXAMPLES)]
_LINKS = {"for an hour": {"summary": "For an hour", "value": {"seconds": 3600}}}
AskedLink = Annotated[Json[LinkRequest], shown_as(_LINKS)]


@routes.get("/api/models/targets")
def targets(actor: CurrentActor, platform: CurrentPlatform) -> Page[Target]:
    """Where the caller's team can deploy models to."""
    return Page(data=platform.transfers.deploys.targets(actor))


@routes.post("/api/models/{model_id}/deploy", responses=problems(*_MODEL, NotInProduction, DeployRefused))
def deploy(model_id: ModelRef, wanted: Asked, actor: CurrentActor, platform: CurrentPlatform) -> Deployed:
    """Put the newest GGUF of a version where it is served from, and tell endpoints (`model.deployed`)."""
    wish = Wish(wanted.target, wanted.stage == "any", wanted.precision)
    return platform.transfers.deploys.deploy(actor, model_id, wish)


@routes.post("/api/models/{model_id}/links", status_code=201, responses=problems(*_MODEL))
def link(model_id: ModelRef, wanted: AskedLink, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Link:
    """A link to the newest GGUF of a version that needs no key and opens for a while."""
    found = platform.transfers.exports.newest(actor, model_id, "gguf", wanted.precision)
    linked = platform.transfers.deploys.linked(found)
    path, until = platform.transfers.links.made(linked, timedelta(seconds=wanted.seconds))
    root = platform.settings.public_url or str(request.base_url)
    (file,) = (file for file in found.exported.files if file.name == linked.name)
    return Link(url=root.rstrip("/") + path, until=until, bytes=file.bytes, sha256=file.sha256)


@routes.get(
    "/links/{team}/{job}/{name}",
    response_class=Response,
    responses=problems(Forbidden, NotFound, Gone, WrongState, ArtifactCorrupt, RangeInvalid),
)
def linked_file(
    team: str,
    job: str,
    name: str,
    platform: CurrentPlatform,
    request: Request,
    *,
    until: Annotated[str, Query(max_length=12)] = "",
    key: Annotated[str, Query(max_length=64)] = "",
    signature: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The file that a link leads to, whole or in ranges. No key: the link itself is signed."""
    platform.transfers.links.check(Linked(team, job, name), until=until, key=key, signature=signature)
    # Whose file it is stands under the signature; nothing else can be read with this.
    known, opened = platform.jobs.open(Actor(team, "link", Role.VIEWER), job, name)
    return file_answer(request, opened, size=known.bytes, name=known.name, tag=known.sha256)
