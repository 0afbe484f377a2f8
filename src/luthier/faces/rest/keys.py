"""API keys: what programs send instead of a password."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.accounts.types import Key, KeyWish, NewKey
from luthier.errors import Conflict, CursorInvalid, FieldInvalid, Forbidden, NotFound
from luthier.faces.rest.access import AnyRole
from luthier.faces.rest.body import Json, such_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, KeyId, Limit, router
from luthier.values import Frozen, Page

routes = router("/api/keys", "keys")


class Rotation(Frozen):
    """How a key is replaced."""

    keep_old_hours: int = Field(default=24, ge=0, le=24 * 30, description="How long the old one still works; 0 ends it now.")


Wish = Annotated[Json[KeyWish], such_as(name="nightly runs")]
Renewal = Annotated[Json[Rotation], such_as(keep_old_hours=24)]


@routes.post("", status_code=201, responses=problems(Forbidden, Conflict, FieldInvalid))
def create(wish: Wish, actor: CurrentActor, platform: CurrentPlatform) -> NewKey:
    """Make a key for yourself and the team that you act for. The answer shows its secret, this once."""
    return platform.accounts.keys.create(actor, wish)


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_keys(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Key]:
    """Your keys, newest first; an admin sees the whole team's."""
    return platform.accounts.keys.list(actor, after=after, limit=limit)


@routes.delete("/{key_id}", status_code=204, dependencies=[AnyRole], responses=problems(NotFound))
def revoke(key_id: KeyId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Refuse a key of yours from now on, whatever your role. An admin may end any key of the team."""
    platform.accounts.keys.revoke(actor, key_id)


@routes.post("/{key_id}/rotate", status_code=201, responses=problems(NotFound, Conflict, Forbidden, FieldInvalid))
def rotate(key_id: KeyId, rotation: Renewal, actor: CurrentActor, platform: CurrentPlatform) -> NewKey:
    """A new secret for a key of yours; the old one still works for a while, so that nothing stands still."""
    return platform.accounts.keys.rotate(actor, key_id, keep_old_hours=rotation.keep_old_hours)
