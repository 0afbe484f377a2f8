"""What the caller's team may hold, and what it does."""

from __future__ import annotations

from luthier.accounts.quotas import Standing
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.values import Page

routes = router("/api/quotas", "quotas")


@routes.get("")
def list_quotas(actor: CurrentActor, platform: CurrentPlatform) -> Page[Standing]:
    """Each quota of the caller's team: how much it may have, and how much it has."""
    return Page[Standing](data=platform.quotas.of(actor))
