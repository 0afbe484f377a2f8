"""Money: prices, usage, ledger. Amounts are decimal strings."""

from __future__ import annotations

from luthier.billing.types import Charge, JobCost, Price, UsageReport
from luthier.errors import CursorInvalid, FieldInvalid, Gone, NotFound
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, JobId, Limit, router
from luthier.values import Page

routes = router("/api/billing", "billing")


@routes.get("/pricing")
def pricing(platform: CurrentPlatform) -> Page[Price]:
    """What an hour of each kind of hardware costs now, cheapest first."""
    return Page(data=platform.billing.prices())


@routes.get("/usage")
def usage(actor: CurrentActor, platform: CurrentPlatform) -> UsageReport:
    """What the caller's team has used this month."""
    return platform.billing.usage(actor)


@routes.get("/history", responses=problems(CursorInvalid, FieldInvalid))
def history(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Charge]:
    """The ledger: final charges, newest first."""
    return platform.billing.history(actor, after=after, limit=limit)


@routes.get("/job/{job_id}/cost", responses=problems(NotFound, Gone))
def job_cost(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> JobCost:
    """What one run has cost so far, to the micro-dollar."""
    return platform.billing.job_cost(actor, job_id)
