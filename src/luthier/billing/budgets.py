"""Budgets of the platform, of teams and of users: asked before a job is taken in, and at each of its heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.amounts import Binding
from luthier.billing import budget_rules, budget_store, rules, store
from luthier.billing.budget_rules import HISTORY_DAYS, Standing
from luthier.billing.types import Budget
from luthier.database import Database, across_tenants
from luthier.errors import BudgetExceeded
from luthier.notifications import outbox
from luthier.seams import Clock

PLATFORM = "platform"
_UNUSUAL = "unusual"
_MICRO = Decimal(1_000_000)


@dataclass(frozen=True)
class PlatformBudget:
    """What all teams together may spend in a month, and the team that is told of it."""

    micro_usd: int | None = None
    home: Callable[[Session], str | None] = lambda _: None


@dataclass(frozen=True)
class _Cap:
    """A budget that applies, and how it stands."""

    subject: str
    name: str
    standing: Standing


@dataclass(frozen=True)
class Spender:
    """Whose money a job spends."""

    tenant_id: str
    user_id: str
    key_id: str | None = None
    key_cap_micro_usd: int | None = None
    """What all jobs that were started with this key may cost together, however many months they take."""


class Budgets:
    """Monthly limits, in UTC. Every question is asked inside the transaction that acts on its answer."""

    def __init__(self, database: Database, now: Clock, platform: PlatformBudget) -> None:
        self._database = database
        self._now = now
        self._platform = platform

    def list(self, actor: Actor) -> list[Budget]:
        """The budgets that bind the caller's team and its users; the platform's is seen by those who run it."""
        with self._database.read(actor.tenant_id) as session:
            caps = [self._cap(session, actor.tenant_id, row.subject, row.micro_usd) for row in budget_store.budgets(session)]
            if self._platform.micro_usd is not None and self._platform.home(session) == actor.tenant_id:
                caps.append(self._of_platform(session, self._platform.micro_usd))
            return [self._budget(session, actor, cap) for cap in caps]

    def set(self, actor: Actor, micro_usd: int | None, user_id: str | None = None) -> list[Budget]:
        """What the caller's team, or one of its users, may spend in a month; 0 stops all, None ends the limit."""
        subject, period = user_id or actor.tenant_id, rules.period_of(self._now())
        with self._database.write(actor.tenant_id) as session:
            if micro_usd is None:
                budget_store.remove(session, subject)
                budget_store.forget_alerts(session, subject, period, 0)
            else:
                row = budget_store.BudgetRow(tenant_id=actor.tenant_id, subject=subject, micro_usd=micro_usd)
                row.set_by, row.set_at = actor.user_id, self._now()
                session.merge(row)
                session.flush()
                cap = self._cap(session, actor.tenant_id, subject, micro_usd)
                budget_store.forget_alerts(session, subject, period, max(budget_rules.reached(cap.standing), default=0))
                self._tell(session, actor.tenant_id, cap)
        return self.list(actor)

    def check(self, session: Session, actor: Actor, requested: int, *, job: bool = True) -> bool:
        """Whether a job, or an answer of a model, that may cost this much fits into each budget that binds it. Returns whether
        there is any.

        Raises: BudgetExceeded. Exact only inside the transaction that holds the money: SQLite has one writer at a time.
        """
        spender = Spender(actor.tenant_id, actor.user_id, actor.paying_key_id, actor.spend_cap_micro_usd)
        caps = [*self._caps(session, spender), *self._of_key(session, spender)]
        for cap in caps:
            if not budget_rules.admits(cap.standing, requested):
                amounts = (requested, cap.standing.limit, cap.standing.committed)
                raise BudgetExceeded(*(amount / _MICRO for amount in amounts), binding=Binding(cap.name, job=job))
        return bool(caps)

    def spend(self, session: Session, spender: Spender, by_day: dict[str, int]) -> None:
        """Add to what was spent, and tell whom it concerns, once."""
        for day, amount in by_day.items():
            row = budget_store.SpendingRow(tenant_id=spender.tenant_id, user_id=spender.user_id, day=day, micro_usd=amount)
            budget_store.spend(session, row)
        self.tell(session, spender)
        self._tell_unusual(session, spender.tenant_id)

    def tell(self, session: Session, spender: Spender) -> None:
        """Tell of every threshold that a budget of this spender has reached, once a month each."""
        for cap in self._caps(session, spender):
            self._tell(session, spender.tenant_id, cap)

    def stops(self, session: Session, spender: Spender, micro_usd_per_hour: int) -> str | None:
        """The budget, or spend cap, that ends a running job at this price now, in words; None where there is none."""
        for cap in (*self._caps(session, spender), *self._of_key(session, spender)):
            if budget_rules.must_stop(cap.standing, micro_usd_per_hour):
                return cap.name
        return None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _caps(self, session: Session, spender: Spender) -> Iterator[_Cap]:
        for row in budget_store.budgets_of(session, spender.tenant_id, spender.user_id):
            yield self._cap(session, spender.tenant_id, row.subject, row.micro_usd)
        if self._platform.micro_usd is not None:
            yield self._of_platform(session, self._platform.micro_usd)

    def _cap(self, session: Session, tenant_id: str, subject: str, limit: int) -> _Cap:
        user_id = None if subject == tenant_id else subject
        spent = budget_store.spent(session, self._period, tenant_id=tenant_id, user_id=user_id)
        held = store.held(session, tenant_id=tenant_id, user_id=user_id)
        name = "the budget of your team" if user_id is None else "your own budget"
        return _Cap(subject, name, Standing(limit, spent, held))

    def _of_platform(self, session: Session, limit: int) -> _Cap:
        with across_tenants(session):
            standing = Standing(limit, budget_store.spent(session, self._period), store.held(session))
        return _Cap(PLATFORM, "the budget of this platform", standing)

    def _of_key(self, session: Session, spender: Spender) -> Iterator[_Cap]:
        key_id, limit = spender.key_id, spender.key_cap_micro_usd
        if key_id is not None and limit is not None:
            standing = Standing(limit, store.charged(session, key_id), store.held(session, key_id=key_id))
            yield _Cap(key_id, "the spend cap of this key", standing)

    def _tell(self, session: Session, tenant_id: str, cap: _Cap) -> None:
        tenant = self._platform.home(session) if cap.subject == PLATFORM else tenant_id
        if tenant is None or not budget_rules.reached(cap.standing):
            return
        with across_tenants(session) if cap.subject == PLATFORM else nullcontext():
            told = budget_store.alerts(session, tenant, cap.subject, self._period)
        for threshold in budget_rules.reached(cap.standing, told):
            if self._first(session, tenant, (cap.subject, self._period, threshold), cap.standing.committed):
                outbox.publish(session, tenant, "budget.alert", self._news(cap, threshold), at=self._now())

    def _tell_unusual(self, session: Session, tenant_id: str) -> None:
        day = self._now().date()
        first, today = day - timedelta(days=HISTORY_DAYS), day.isoformat()
        amounts = budget_store.by_day(session, tenant_id, first.isoformat(), today)
        history = [amounts.get(each, 0) for each in _days(first, day)]
        spent = amounts.get(today, 0)
        if budget_rules.unusual(spent, history) and self._first(session, tenant_id, (_UNUSUAL, today, 0), spent):
            usual = rules.usd(budget_rules.ordinary(history))
            news = {"day": today, "spent_usd": rules.usd(spent), "usual_usd": usual}
            outbox.publish(session, tenant_id, "spending.unusual", news, at=self._now())

    def _first(self, session: Session, tenant_id: str, key: tuple[str, str, int], micro_usd: int) -> bool:
        subject, period, threshold = key
        row = budget_store.AlertRow(tenant_id=tenant_id, subject=subject, period=period, threshold=threshold)
        row.micro_usd, row.at = micro_usd, self._now()
        return budget_store.alert(session, row)

    def _news(self, cap: _Cap, threshold: int) -> dict[str, Any]:
        standing = cap.standing
        amounts = {"limit_usd": standing.limit, "spent_usd": standing.spent, "held_usd": standing.held}
        shown = {name: rules.usd(amount) for name, amount in amounts.items()}
        return {"budget": cap.subject, "period": self._period, "threshold": threshold, **shown}

    def _budget(self, session: Session, actor: Actor, cap: _Cap) -> Budget:
        told = budget_store.alerts(session, actor.tenant_id, cap.subject, self._period)
        kind = "platform" if cap.subject == PLATFORM else "team" if cap.subject == actor.tenant_id else "user"
        return Budget(
            of=kind,
            user_id=cap.subject if kind == "user" else None,
            period=self._period,
            limit_usd=rules.usd(cap.standing.limit),
            spent_usd=rules.usd(cap.standing.spent),
            held_usd=rules.usd(cap.standing.held),
            left_usd=rules.usd(max(0, cap.standing.limit - cap.standing.committed)),
            alerts=tuple(sorted(told)),
        )

    @property
    def _period(self) -> str:
        return rules.period_of(self._now())


def _days(first: date, end: date) -> Iterator[str]:
    while first < end:
        yield first.isoformat()
        first += timedelta(days=1)
