"""The audit log, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from luthier.accounts.audit_types import AuditEntry, Outcome, Wanted
from luthier.errors import CursorInvalid, FieldInvalid, Forbidden
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, Limit, router
from luthier.values import Page

routes = router("/api/audit", "audit")

Word = Query(max_length=64, pattern=r"^[A-Za-z0-9_.]+$")


@routes.get("", dependencies=[AdminOnly], responses=problems(CursorInvalid, FieldInvalid, Forbidden))
def list_audit(
    asking: CurrentActor,
    platform: CurrentPlatform,
    *,
    limit: Limit = 50,
    after: After = None,
    actor: Annotated[str | None, Word] = None,
    action: Annotated[str | None, Word] = None,
    outcome: Outcome | None = None,
    on: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z0-9_]+$", description="An id that the row names.")] = None,
    request_id: Annotated[str | None, Query(pattern=r"^req_[0-9a-z]{26}$", description="As every error has it.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this moment on, with its time zone.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this moment, with its time zone.")] = None,
) -> Page[AuditEntry]:
    """Who of the caller's team did what, newest first. Rows are sealed into a chain within 5 s; see `luthier audit verify`."""
    wanted = Wanted(actor, action, outcome, on, request_id, since, until)
    return platform.audit.list(asking, wanted, after=after, limit=limit)
