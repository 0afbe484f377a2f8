"""Who is asking, what may be tuned, and what it costs."""

from __future__ import annotations

from luthier.accounts.types import Me
from luthier.bases.types import Base
from luthier.billing.types import Charge, JobCost, Price, UsageReport
from luthier.errors import CursorInvalid, FieldInvalid, NotFound
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, JobId, Limit, router
from luthier.values import Page

routes = router("/api", "account")


@routes.get("/me")
def me(actor: CurrentActor, platform: CurrentPlatform) -> Me:
    """The caller: whose key this is."""
    return platform.accounts.me(actor)


@routes.get("/bases")
def bases(_actor: CurrentActor, platform: CurrentPlatform) -> Page[Base]:
    """All base models that may be tuned."""
    return Page(data=platform.bases.list())


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
