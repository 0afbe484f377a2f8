"""Decisions on who may do what. Pure."""

from __future__ import annotations

from luthier.accounts.types import Actor, Role, Scope
from luthier.errors import Forbidden

LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_QUESTIONS = frozenset({"/predict", "/api/predict", "/api/predict/picture"})
"""Of the other methods, and asked a thousand times a second: their limit is that of reads, and their log the access log."""


def looks(method: str, path: str) -> bool:
    """Whether a request can change nothing, told before anything else is known of it.

    >>> looks("GET", "/api/jobs"), looks("POST", "/predict"), looks("POST", "/api/jobs")
    (True, True, False)
    """
    return method in LOOKING or path in _QUESTIONS


def refusal(
    actor: Actor, method: str, *, admin_only: bool = False, viewers_too: bool = False, any_role: bool = False
) -> Forbidden | None:
    """Why this caller may not, or None where it may. A key never lifts its holder above the role, it only takes away.

    `any_role` asks nothing of the role, but of a key the scope that the method needs.
    """
    looking = method in LOOKING or viewers_too
    scope = Scope.READ if looking else Scope.WRITE
    if actor.scopes is not None and scope not in actor.scopes:
        has = ", ".join(sorted(actor.scopes))
        return Forbidden(
            f"This key has the scope `{has}`; this needs `{scope}`.", hint="Make a key that has it: `tune keys create`."
        )
    if admin_only and actor.role is not Role.ADMIN:
        return Forbidden(f"This needs the role `admin`; yours is `{actor.role}`.", hint="Ask an admin of your team.")
    if not looking and not any_role and actor.role is Role.VIEWER:
        return Forbidden("Your role may look, but not change anything.", hint="Ask an admin of your team for the role `member`.")
    return None
