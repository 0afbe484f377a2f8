"""Who the caller is."""

from __future__ import annotations

from luthier.accounts.types import Me
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router

routes = router("/api/me", "accounts")


@routes.get("")
def me(actor: CurrentActor, platform: CurrentPlatform) -> Me:
    """The caller as the platform sees them: user, team, role."""
    return platform.accounts.me(actor)
