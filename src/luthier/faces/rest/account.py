"""Who is asking, and what may be tuned."""

from __future__ import annotations

from luthier.accounts.types import Me
from luthier.bases.types import Base
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.values import Page

routes = router("/api", "account")


@routes.get("/me")
def me(actor: CurrentActor, platform: CurrentPlatform) -> Me:
    """The caller: whose key this is."""
    return platform.accounts.me(actor)


@routes.get("/bases")
def bases(_actor: CurrentActor, platform: CurrentPlatform) -> Page[Base]:
    """All base models that may be tuned."""
    return Page(data=platform.bases.list())
