"""What things cost, what was spent, and what may be."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body
from pydantic import Field

from luthier import ids
from luthier.billing.types import Budget, Charge, JobCost, Price, UsageReport
from luthier.errors import CursorInvalid, FieldInvalid, NotFound
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import Json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, JobId, Limit, router
from luthier.values import Frozen, Page, Usd, micro_usd

routes = router("/api", "billing")


class BudgetWish(Frozen):
    """What may be spent in a month (UTC)."""

    limit_usd: Usd | None = Field(description="0 stops everything; null ends the limit.", examples=["100.00"])
    user_id: str | None = Field(default=None, max_length=64, description="For one user of your team; left out: for all of it.")


_WISHES = {
    "team": {"summary": "The team", "value": {"limit_usd": "100.00"}},
    "stop": {"summary": "Stop everything", "value": {"limit_usd": "0"}},
}
Wish = Annotated[Json[BudgetWish], Body(openapi_examples=_WISHES)]  # pyright: ignore[reportArgumentType]  # plain dicts


@routes.get("/billing/pricing")
def pricing(_actor: CurrentActor, platform: CurrentPlatform) -> Page[Price]:
    """What an hour of each hardware costs now, cheapest first."""
    return Page(data=platform.billing.prices())


@routes.get("/billing/usage")
def usage(actor: CurrentActor, platform: CurrentPlatform) -> UsageReport:
    """What the caller's team used this month."""
    return platform.billing.usage(actor)


@routes.get("/billing/history", responses=problems(CursorInvalid, FieldInvalid))
def history(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Charge]:
    """The ledger, newest first."""
    return platform.billing.history(actor, after=after, limit=limit)


@routes.get("/billing/job/{job_id}/cost", responses=problems(NotFound))
def job_cost(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> JobCost:
    """What one run has cost so far."""
    return platform.billing.job_cost(actor, job_id)


@routes.get("/budgets")
def budgets(actor: CurrentActor, platform: CurrentPlatform) -> Page[Budget]:
    """What your team and its users may spend this month, and how much of it is left."""
    return Page(data=platform.billing.budgets.list(actor))


@routes.put("/budgets", dependencies=[AdminOnly], responses=problems(FieldInvalid, NotFound))
def set_budget(wanted: Wish, actor: CurrentActor, platform: CurrentPlatform) -> Page[Budget]:
    """Set, change or end the monthly budget of your team, or of one of its users."""
    if wanted.user_id is not None:
        _check_member(wanted.user_id, actor, platform)
    amount = None if wanted.limit_usd is None else micro_usd(wanted.limit_usd)
    return Page(data=platform.billing.budgets.set(actor, amount, wanted.user_id))


def _check_member(user_id: str, actor: CurrentActor, platform: CurrentPlatform) -> None:
    members = {member.user_id for member in platform.accounts.teams.members(actor)}
    if not ids.is_id(user_id, ids.USER) or user_id not in members:
        raise NotFound("user", hint="`GET /api/users` lists the people of your team.")
