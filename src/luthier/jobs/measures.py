"""How many jobs and tokens a team has: what its quotas are held against."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from luthier.accounts.quotas import Quota, Quotas
from luthier.jobs import store
from luthier.jobs.types import Estimate
from luthier.seams import Clock


def add_to(quotas: Quotas, now: Clock) -> None:
    """Tell how jobs are measured."""

    def tokens_this_month(session: Session, tenant_id: str) -> int:
        return store.tokens_since(session, tenant_id, month_of(now()))

    quotas.measure(Quota.QUEUED_JOBS, store.unfinished)
    quotas.measure(Quota.RUNNING_JOBS, store.running)
    quotas.measure(Quota.TOKENS_A_MONTH, tokens_this_month)


def month_of(moment: datetime) -> datetime:
    """When its month began."""
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def check(quotas: Quotas, session: Session, tenant_id: str, *, tokens: int) -> None:
    """Raises: QuotaExceeded, where one more job of so many tokens is too much."""
    quotas.check(session, tenant_id, {Quota.QUEUED_JOBS: 1, Quota.TOKENS_A_MONTH: tokens})


def check_tokens(quotas: Quotas, session: Session, tenant_id: str, tokens: int) -> None:
    """Raises: QuotaExceeded, where so many more tokens are too many."""
    quotas.check(session, tenant_id, {Quota.TOKENS_A_MONTH: tokens})


def check_again(quotas: Quotas, session: Session, row: store.JobRow, now: datetime) -> None:
    """The same for a job that has ended and is to go on. Its tokens count once a month. Raises: QuotaExceeded."""
    counted = row.attempt > 0 and row.queued_at >= month_of(now)
    check(quotas, session, row.tenant_id, tokens=0 if counted else Estimate.model_validate_json(row.estimate).tokens)
