"""Adapters made elsewhere, on their way in."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request

from luthier.errors import BaseUnavailable, FieldInvalid, ModelNotAllowed, StorageFull, TooLarge, UnsupportedType
from luthier.faces.rest.body import media_type, refuse_encoding
from luthier.faces.rest.errors import problems
from luthier.faces.rest.uploads import Receiver
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.registry.arrivals import Arriving
from luthier.registry.types import Model
from luthier.values import Name

routes = router("/api/models", "models")
TAR = "application/x-tar"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An uncompressed tar with `adapter_config.json` and `adapter_model.safetensors`, or with one adapter as "
        "`.gguf`. A tokenizer and a template may be in it; the version is served with its base's own.",
        "content": {TAR: {"schema": {"type": "string", "format": "binary"}, "example": "the bytes of a tar"}},
    }
}


@routes.post(
    "/import",
    status_code=201,
    openapi_extra=_BODY,
    responses=problems(FieldInvalid, ModelNotAllowed, BaseUnavailable, TooLarge, UnsupportedType, StorageFull),
)
async def import_model(
    request: Request,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    name: Annotated[Name, Query(description="Of the model; versions of a name are numbered.")],
    base_model: Annotated[
        str | None, Query(min_length=1, max_length=200, description="The base that it stands on; by default its config's own.")
    ] = None,
) -> Model:
    """Make an adapter that was trained elsewhere a version here: checked, not measured, in no stage."""
    refuse_encoding(request)
    if media_type(request).get_content_type() != TAR:
        raise UnsupportedType(f"An adapter comes as `{TAR}`.", hint="Send an uncompressed tar, and set the Content-Type.")
    receiver: Receiver = request.app.state.receiver
    arriving, take = Arriving(name, base_model), platform.transfers.arrivals.take
    return await receiver.pass_on(request, lambda _size, chunks: take(actor, arriving, chunks))
