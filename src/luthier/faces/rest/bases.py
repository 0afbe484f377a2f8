"""Base models that runs may start from."""

from __future__ import annotations

from luthier.bases.types import Base
from luthier.faces.rest.wire import CurrentPlatform, router
from luthier.values import Page

routes = router("/api/bases", "bases")


@routes.get("")
def list_bases(platform: CurrentPlatform) -> Page[Base]:
    """All base models that are allowed here, with their sizes, licence and whether they lie on this machine."""
    return Page(data=platform.bases.list())
