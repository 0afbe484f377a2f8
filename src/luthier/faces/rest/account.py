"""The rest of what a caller may ask: who am I, which bases are there, what did it cost."""

from __future__ import annotations

from luthier.accounts.types import Me
from luthier.bases.types import Base
from luthier.billing.types import Charge, JobCost, Price, UsageReport
from luthier.errors import CursorInvalid, FieldInvalid, NotFound
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, JobId, Limit, router
from luthier.values import Page

routes = router("", "platform")


@routes.get("/api/me")
def me(actor: CurrentActor, platform: CurrentPlatform) -> Me:
    """The caller, the team that the key works for, and the role in it."""
    return platform.accounts.me(actor)


@routes.get("/api/bases")
def bases(actor: CurrentActor, platform: CurrentPlatform) -> list[Base]:  # noqa: ARG001  # only a known caller may look
    """Allowed base models, and which are on this machine."""
    return platform.bases.list()


@routes.get("/api/billing/pricing")
def pricing(actor: CurrentActor, platform: CurrentPlatform) -> list[Price]:  # noqa: ARG001  # only a known caller may look
    """Today's price book."""
    return platform.billing.prices()


@routes.get("/api/billing/usage")
def usage(actor: CurrentActor, platform: CurrentPlatform) -> UsageReport:
    """What the current month has cost so far."""
    return platform.billing.usage(actor)


@routes.get("/api/billing/history", responses=problems(CursorInvalid, FieldInvalid))
def history(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Charge]:
    """The ledger of the caller's team, newest first."""
    return platform.billing.history(actor, after=after, limit=limit)


@routes.get("/api/billing/job/{job_id}/cost", responses=problems(NotFound))
def job_cost(job_id: JobId, actor: CurrentActor, platform: CurrentPlatform) -> JobCost:
    """What one job has cost until now, to the micro-dollar."""
    return platform.billing.job_cost(actor, job_id)
