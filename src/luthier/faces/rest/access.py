"""What a caller may do is decided here, for every route, before its body is read. See `body.StrictRoute`.

GET and HEAD need the role `viewer` and the scope `read`, all else `member` and `write`. A route that differs says so with a
mark: `dependencies=[AdminOnly]`, `[ViewersToo]` or `[AnyRole]`. Nothing is ever authorised by a path or by a field.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Depends, Request
from fastapi.params import Depends as Mark

from luthier.accounts import rules
from luthier.accounts.types import Actor


async def _admin_only() -> None:
    """A mark: `check` looks for it."""


async def _viewers_too() -> None:
    """A mark: `check` looks for it."""


async def _any_role() -> None:
    """A mark: `check` looks for it."""


AdminOnly: Mark = Depends(_admin_only)
"""For admins of the team."""
ViewersToo: Mark = Depends(_viewers_too)
"""Not a GET, and yet it changes nothing of the team's: an estimate, a question to a model, one's own logout."""
AnyRole: Mark = Depends(_any_role)
"""Changes what is the caller's own, whatever their role: a viewer ends a key that leaked. A key needs the scope `write`."""


def check(request: Request, marks: Sequence[Mark]) -> None:
    """Raises: Forbidden. The door has verified who asks; an open path has no caller, and none is needed."""
    actor: Actor | None = request.scope.get("luthier.actor")
    if actor is None:
        return
    refused = rules.refusal(
        actor,
        request.method,
        admin_only=AdminOnly in marks,
        viewers_too=ViewersToo in marks,
        any_role=AnyRole in marks,
    )
    if refused is not None:
        raise refused
