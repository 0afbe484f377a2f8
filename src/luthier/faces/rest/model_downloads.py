"""Models on their way out: what they were exported as, and all of it as one file."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field

from luthier.errors import ArtifactCorrupt, Gone, ModelNotReady, NotExported, NotFound, RangeInvalid
from luthier.faces.rest.errors import problems
from luthier.faces.rest.models import ModelRef
from luthier.faces.rest.streaming import Opened, opened_answer
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.registry.bundles import Download
from luthier.registry.exports import Exported, Format
from luthier.values import Page

routes = router("/api/models", "models")
Form = Annotated[
    Format | None,
    Query(alias="format", description="One of its finished exports; left out, its own files (adapter, tokenizer, template)."),
]
Precision = Annotated[
    str | None,
    Query(max_length=16, description="Which of its exports of that format, e.g. `q8_0`; left out, the newest."),
    Field(pattern="^[a-z0-9_]+$"),
]
REFUSALS = problems(NotFound, Gone, ModelNotReady, NotExported, ArtifactCorrupt, RangeInvalid)
"""Of a download."""


@routes.get("/{model_id}/exports", responses=problems(NotFound, Gone, ModelNotReady))
def exports(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Page[Exported]:
    """Its finished exports, newest first: format, precision, files with checksums, and what was proven of each."""
    return Page(data=platform.transfers.exports.list(actor, model_id))


@routes.get("/{model_id}/download", response_class=Response, responses=REFUSALS)
def download(
    model_id: ModelRef,
    actor: CurrentActor,
    platform: CurrentPlatform,
    request: Request,
    *,
    form: Form = None,
    precision: Precision = None,
) -> Response:
    """All files as one tar archive, or a GGUF as it is; whole or in ranges, verified before its first byte.

    `etag` and `repr-digest` are the sha256 of all of it.
    """
    return sent(request, platform.transfers.exports.download(actor, model_id, form, precision))


def sent(request: Request, found: Download) -> Response:
    """A download as an answer. Raises: RangeInvalid."""
    return opened_answer(request, Opened(found.stream, found.size, found.name, found.sha256, found.media_type))
