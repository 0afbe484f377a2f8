"""What things cost, what was spent, and what may be."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from luthier import ids
from luthier.billing.bill_page import Reader, as_html
from luthier.billing.reports import as_csv
from luthier.billing.types import Budget, Charge, JobCost, MonthlyReport, Price, Reason, Refund, UsageReport
from luthier.errors import CursorInvalid, FieldInvalid, Forbidden, IdempotencyKeyInvalid, KeyReused, NotFound
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, IdempotencyKey, JobId, Limit, router
from luthier.values import MONTH_FORM, Frozen, Page, Usd, micro_usd

routes = router("/api", "billing")

_REFUSED = (FieldInvalid, NotFound, Forbidden, KeyReused, IdempotencyKeyInvalid)
_FORMS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}}}
}


class PriceWish(Frozen):
    """A new price."""

    hourly_usd: Usd = Field(examples=["1.50"])


class RefundWish(Frozen):
    """What to give back."""

    job_id: str = Field(max_length=64)
    amount_usd: Usd = Field(examples=["1.50"])
    reason: Reason = Field(examples=["The GPU was broken."])


_PRICES = {"price": {"summary": "Dollars an hour", "value": {"hourly_usd": "1.50"}}}
_REFUND = {"job_id": "job_01kagz3vqdfyxtqn4w5b9zn8r2", "amount_usd": "1.50", "reason": "The GPU was broken."}
_REFUNDS = {"part": {"summary": "A part", "value": _REFUND}}
NewPrice = Annotated[Json[PriceWish], shown_as(_PRICES)]
NewRefund = Annotated[Json[RefundWish], shown_as(_REFUNDS)]


class BudgetWish(Frozen):
    """What may be spent in a month (UTC)."""

    limit_usd: Usd | None = Field(description="0 stops everything; null ends the limit.", examples=["100.00"])
    user_id: str | None = Field(default=None, max_length=64, description="For one user of your team; left out: for all of it.")


_WISHES = {
    "team": {"summary": "The team", "value": {"limit_usd": "100.00"}},
    "stop": {"summary": "Stop everything", "value": {"limit_usd": "0"}},
}
Wish = Annotated[Json[BudgetWish], shown_as(_WISHES)]


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


@routes.get("/billing/report", response_model=MonthlyReport, responses={**problems(FieldInvalid), **_FORMS})
def report(
    actor: CurrentActor,
    platform: CurrentPlatform,
    period: Annotated[str, Query(pattern=MONTH_FORM, description="`YYYY-MM` (UTC).", examples=["2026-11"])],
    form: Annotated[Literal["json", "csv", "html"], Query(alias="format", description="Numbers, or a page to print.")] = "json",
) -> Response:
    """A month of your team's ledger, by job, user and hardware."""
    found = platform.billing.report(actor, period, partial(platform.jobs.names, actor))
    if form == "csv":
        headers = {"content-disposition": f'attachment; filename="luthier-{period}.csv"'}
        return PlainTextResponse(as_csv(found), media_type="text/csv", headers=headers)
    if form == "html":
        teams = {team.id: team.name for team in platform.accounts.teams.list(actor)}
        people = {member.user_id: member.email for member in platform.accounts.teams.members(actor)}
        reader = Reader(teams.get(actor.tenant_id, actor.tenant_id), platform.now(), people)
        return HTMLResponse(
            as_html(found, reader), headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        )
    return Response(found.model_dump_json(), media_type="application/json")


@routes.put("/billing/pricing/{hardware}", dependencies=[AdminOnly], responses=problems(FieldInvalid, Forbidden, NotFound))
def set_price(hardware: str, wanted: NewPrice, actor: CurrentActor, platform: CurrentPlatform) -> Price:
    """What an hour costs from now on; what runs keeps its price to the end of its hour. For those who run the server."""
    platform.accounts.check_operates(actor)
    if hardware not in {price.hardware for price in platform.billing.prices()}:
        raise NotFound("hardware", hint="`tune pricing` lists all of it.")
    return platform.billing.set_price(hardware, wanted.hourly_usd)


@routes.post("/billing/refunds", status_code=201, dependencies=[AdminOnly], responses=problems(*_REFUSED))
def refund(wanted: NewRefund, key: IdempotencyKey, actor: CurrentActor, platform: CurrentPlatform) -> Charge:
    """Give back what a job was charged, as a line of the ledger below 0. For those who run the server."""
    platform.accounts.check_operates(actor)
    amount = micro_usd(wanted.amount_usd)
    return platform.billing.refund(Refund(wanted.job_id, amount, wanted.reason, key or ids.new(ids.REQUEST)))


@routes.get("/budgets")
def budgets(actor: CurrentActor, platform: CurrentPlatform) -> Page[Budget]:
    """What your team and its users may spend this month, and how much of it is left."""
    return Page(data=platform.billing.budgets.list(actor))


@routes.put("/budgets", dependencies=[AdminOnly], responses=problems(FieldInvalid, NotFound))
def set_budget(wanted: Wish, actor: CurrentActor, platform: CurrentPlatform) -> Page[Budget]:
    """Set, change or end the monthly budget of your team, or of one of its users."""
    if wanted.user_id is not None:
        _check_user(wanted.user_id, actor, platform, ends=wanted.limit_usd is None)
    amount = None if wanted.limit_usd is None else micro_usd(wanted.limit_usd)
    return Page(data=platform.billing.budgets.set(actor, amount, wanted.user_id))


def _check_user(user_id: str, actor: CurrentActor, platform: CurrentPlatform, *, ends: bool) -> None:
    known = {member.user_id for member in platform.accounts.teams.members(actor)}
    if ends:  # of somebody who has left, too: it is on the list for as long as it is there
        known |= {budget.user_id for budget in platform.billing.budgets.list(actor) if budget.user_id}
    if not ids.is_id(user_id, ids.USER) or user_id not in known:
        raise NotFound("user", hint="`GET /api/users` lists the people of your team.")
