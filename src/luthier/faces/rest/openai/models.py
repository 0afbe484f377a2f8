"""`/v1/models`: what can be asked."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from luthier.errors import CursorInvalid, Gone, InUse, ModelNotAllowed, ModelNotReady, NotFound
from luthier.faces.rest.openai.routes import Listing, listing, refusals, router
from luthier.faces.rest.openai.shapes import Deleted, ModelObject, seconds, tuned_name
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform
from luthier.registry.types import Model

routes = router("models (OpenAI)")

_BASES_SINCE = 0
"""Bases have no time of their own."""
Ref = Annotated[str, Path(max_length=300, description="`ft:...`, a base id or alias, or any name that chat takes.")]


@routes.get("/models", responses=refusals(CursorInvalid))
def list_models(actor: CurrentActor, platform: CurrentPlatform) -> Listing[ModelObject]:
    """All bases, with their aliases, the embedder, and all tuned versions of the team."""
    bases = platform.bases.list()
    names = [*(name for base in bases for name in (base.id, *base.aliases)), *platform.embeddings.listing]
    shown = [ModelObject(id=name, created=_BASES_SINCE, owned_by="luthier") for name in names]
    after: str | None = None
    while True:
        page = platform.registry.list(actor, after=after, limit=200)
        shown += [_tuned(model, actor.tenant_id) for model in page.data]
        after = page.next_cursor
        if after is None:
            return listing(shown, [model.id for model in shown], more=False)


@routes.get("/models/{model:path}", responses=refusals(NotFound, Gone, ModelNotReady))
def retrieve(model: Ref, actor: CurrentActor, platform: CurrentPlatform) -> ModelObject:
    """One of them."""
    if model in platform.embeddings.listing:
        return ModelObject(id=model, created=_BASES_SINCE, owned_by="luthier")
    try:
        platform.bases.get(model)
        return ModelObject(id=model, created=_BASES_SINCE, owned_by="luthier")  # by the name that the list has
    except ModelNotAllowed:
        return _tuned(platform.registry.resolve(actor, model), actor.tenant_id)


@routes.delete("/models/{model:path}", responses=refusals(NotFound, Gone, ModelNotReady, InUse))
def delete(model: Ref, actor: CurrentActor, platform: CurrentPlatform) -> Deleted:
    """Remove a tuned version. Refused while it is in Production, needed, or answering."""
    platform.registry.delete(actor, model)
    return Deleted(id=model, object="model")


def _tuned(model: Model, tenant_id: str) -> ModelObject:
    name = tuned_name(model.base_model, tenant_id, model.name, model.id)
    return ModelObject(id=name, created=seconds(model.created_at), owned_by=tenant_id)
