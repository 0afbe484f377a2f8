"""Which model fits: search by what cards say, recommendation by meaning, a card as a page. Both paths of each lead here."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from luthier.errors import CursorInvalid, FieldInvalid, Gone, ModelNotReady, NotFound
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.models import ModelRef
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, Limit, router
from luthier.registry.markdown import markdown
from luthier.registry.rules import words
from luthier.registry.search_types import Recommended, RecommendRequest, Sentence, Wanted
from luthier.registry.types import Model
from luthier.values import Page, Text

routes = router("/api/models", "models")
seed_routes = router("/models", "seed paths")

Filter = Annotated[Text, Query(min_length=1, max_length=200)]
_EXAMPLES = {
    "in words": {"summary": "A plain sentence", "value": {"text": "answers customers in French", "limit": 3}},
}
Request = Annotated[Json[RecommendRequest], shown_as(_EXAMPLES)]


@seed_routes.get("/search", responses=problems(CursorInvalid, FieldInvalid))
@routes.get("/search", responses=problems(CursorInvalid, FieldInvalid))
def search(
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    base_model: Annotated[Filter | None, Query(description="Tuned from this base.")] = None,
    language: Annotated[Filter | None, Query(description="One of the card's languages.")] = None,
    task: Annotated[Filter | None, Query(description="The card's task, e.g. `text-generation`.")] = None,
    tags: Annotated[Filter | None, Query(description="Tags that the card all has, with commas between them.")] = None,
    q: Annotated[Sentence | None, Query(description="Words that all stand, or begin one that stands, on the card.")] = None,
    limit: Limit = 50,
    after: After = None,
) -> Page[Model]:
    """The team's models whose cards say all of this, newest first. Upper and lower case are alike."""
    wanted = Wanted(base_model, language, task, words(tags or ""), q)
    return platform.catalogue.search(actor, wanted, after=after, limit=limit)


@seed_routes.post("/recommend", dependencies=[ViewersToo], responses=problems(FieldInvalid))
@routes.post("/recommend", dependencies=[ViewersToo], responses=problems(FieldInvalid))
def recommend(wanted: Request, actor: CurrentActor, platform: CurrentPlatform) -> Recommended:
    """The team's models that are most like a sentence or a vector, best first; `by` says what compared them."""
    return platform.catalogue.recommend(actor, wanted)


@routes.get("/{model_id}/card.md", response_class=Response, responses=problems(NotFound, Gone, ModelNotReady))
def card_page(model_id: ModelRef, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """The card as Markdown with YAML front matter, as model hubs show it."""
    model = platform.registry.resolve(actor, model_id)
    return Response(markdown(model.card, model.stage), media_type="text/markdown; charset=utf-8")
