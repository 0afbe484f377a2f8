"""Served tokens: counted in memory as they are sent, written once a second, charged exactly.

What a request costs is two additions under a lock, no write and no fsync. `keep` writes what came since the last round, in one
durable transaction; `close` does the same at a clean stop, so nothing is lost by one. A process that is killed, or a power cut,
loses at most what was served since the last round: a second and what the round itself took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from sqlalchemy.orm import Session

from luthier.accounts import quotas
from luthier.accounts.quotas import Quota, Quotas
from luthier.accounts.types import Actor
from luthier.billing import rules, token_rules
from luthier.billing import token_store as store
from luthier.billing.budgets import Budgets, Spender
from luthier.billing.token_rules import Served, TokenPrice
from luthier.billing.types import TokenUsage
from luthier.database import EVERY_TENANT, Database
from luthier.errors import LuthierError
from luthier.seams import Clock

_LOG = logging.getLogger("luthier.billing")
Kind = Literal["chat", "predict", "embeddings"]
ROUND_S = 1.0
"""How often `keep` is called, and how long a verdict on quota and budget holds."""


@dataclass(frozen=True)
class Account:
    """Whose tokens they are, of what, and what a million of them costs."""

    tenant_id: str
    user_id: str
    model: str
    kind: Kind
    price: TokenPrice


@dataclass
class _Verdict:
    """What quota and budget said a moment ago."""

    until: float
    limit: int | None
    used: int
    refusal: LuthierError | None = None

    def raise_for(self, prompt_tokens: int) -> None:
        """Raises: QuotaExceeded, BudgetExceeded."""
        if self.refusal is not None:
            raise self.refusal
        if self.limit is not None:
            quotas.check_room(Quota.SERVED_TOKENS_A_MONTH, limit=self.limit, used=self.used, asked=prompt_tokens)


_Mark = tuple[str, str, str | None, bool]
Unwritten = defaultdict[tuple[Account, str], Served]
"""By account and day."""


@dataclass(frozen=True)
class Metering:
    """How much may be served, and for what; free where no price is given."""

    quotas: Quotas
    prices: Mapping[str, TokenPrice] = field(default_factory=dict[str, TokenPrice])
    seconds: Callable[[], float] = time.monotonic
    """A clock that only goes forward."""


class TokenMeter:
    """Any thread may ask and add."""

    def __init__(
        self,
        database: Database,
        budgets: Budgets,
        metering: Metering,
        now: Clock,
    ) -> None:
        self._database = database
        self._budgets = budgets
        self._quotas = metering.quotas
        self._prices = metering.prices
        self._now = now
        self._seconds = metering.seconds
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._unwritten: Unwritten = defaultdict(Served)
        self._verdicts: dict[_Mark, _Verdict] = {}
        self._quotas.measure(Quota.SERVED_TOKENS_A_MONTH, self._used)

    def account(self, actor: Actor, kind: Kind, model: str, base: str) -> Account:
        """Where the tokens of a request to `model`, which stands on `base`, are counted."""
        return Account(actor.tenant_id, actor.user_id, model, kind, token_rules.price_of(self._prices, base))

    def admit(self, actor: Actor, account: Account, prompt_tokens: int = 0) -> None:
        """Whether quota and budget leave room for a request. Asked of the database once a second for each caller, so requests
        under way at once may go over by what they say. Raises: QuotaExceeded, BudgetExceeded.
        """
        self._verdict(actor, account).raise_for(prompt_tokens)

    def admitted(self, actor: Actor, account: Account) -> bool:
        """Whether `admit` for no tokens is known to raise nothing: told without the database."""
        verdict = self._verdicts.get(_mark(actor, account))
        if verdict is None or verdict.until <= self._seconds():
            return False
        try:
            verdict.raise_for(prompt_tokens=0)
        except LuthierError:
            return False
        return True

    def add(self, account: Account, served: Served) -> None:
        """Count what was sent."""
        day = rules.day_of(self._now())
        with self._lock:
            self._unwritten[account, day] += served
            for mark, verdict in self._verdicts.items():
                if mark[0] == account.tenant_id:
                    verdict.used += served.tokens

    def keep(self) -> int:
        """Write what came since the last round. Returns how many rows. Raises: DatabaseBusy, StorageFull; nothing is lost."""
        with self._writing:
            with self._lock:
                taken, self._unwritten = self._unwritten, defaultdict(Served)
            if not taken:
                return 0
            try:
                with self._database.write(EVERY_TENANT) as session:
                    for (account, day), served in taken.items():
                        self._write(session, account, day, served)
            except BaseException:  # whatever it was, it is raised again: what was taken must not be lost with it
                with self._lock:
                    for key, served in taken.items():
                        self._unwritten[key] += served
                raise
        return len(taken)

    def close(self) -> None:
        """Write the rest."""
        try:
            self.keep()
        except LuthierError as error:
            lost = sum(served.tokens for served in self._unwritten.values())
            _LOG.error("%d served tokens could not be written, and are not billed: %s", lost, error)

    def usage(self, session: Session, period: str) -> list[TokenUsage]:
        """What the session's tenant was served in a month, by model, kind and user; the costs sum to the bill."""
        sums: dict[tuple[str, Kind, str], tuple[Served, int]] = {}
        for row in store.of_month(session, period):
            key = (row.model, cast(Kind, row.kind), row.user_id)
            before, money = sums.get(key, (Served(), 0))
            sums[key] = (before + row.served, money + token_rules.charge(row.price, row.kind, row.served))
        return [
            TokenUsage(
                model=model,
                kind=kind,
                user_id=user_id,
                requests=served.requests,
                prompt_tokens=served.prompt_tokens,
                completion_tokens=served.completion_tokens,
                cost_usd=rules.usd(money),
            )
            for (model, kind, user_id), (served, money) in sums.items()
        ]

    def _write(self, session: Session, account: Account, day: str, served: Served) -> None:
        row = store.ServedRow(
            tenant_id=account.tenant_id,
            day=day,
            user_id=account.user_id,
            model=account.model,
            kind=account.kind,
            prompt_price=account.price.prompt,
            completion_price=account.price.completion,
            prediction_price=account.price.prediction,
            requests=served.requests,
            prompt_tokens=served.prompt_tokens,
            completion_tokens=served.completion_tokens,
        )
        after = store.add(session, row)
        charged = token_rules.charge(account.price, account.kind, after)
        added = charged - token_rules.charge(account.price, account.kind, after - served)
        if added:
            self._budgets.spend(session, Spender(account.tenant_id, account.user_id), {day: added})

    def _verdict(self, actor: Actor, account: Account) -> _Verdict:
        mark = _mark(actor, account)
        verdict = self._verdicts.get(mark)
        if verdict is None or verdict.until <= self._seconds():
            verdict = self._asked(actor, account)
            with self._lock:
                self._verdicts = {key: each for key, each in self._verdicts.items() if each.until > self._seconds()}
                self._verdicts[mark] = verdict
        return verdict

    def _asked(self, actor: Actor, account: Account) -> _Verdict:
        refusal: LuthierError | None = None
        with self._database.read(EVERY_TENANT) as session:
            limit = self._quotas.limit(session, actor.tenant_id, Quota.SERVED_TOKENS_A_MONTH)
            used = 0 if limit is None else self._used(session, actor.tenant_id)
            try:
                if not account.price.free:
                    self._budgets.check(session, actor, 1, job=False)
            except LuthierError as error:
                refusal = error
        return _Verdict(self._seconds() + ROUND_S, limit, used, refusal)

    def _used(self, session: Session, tenant_id: str) -> int:
        """Tokens of the month, with those that were not written yet."""
        period = rules.period_of(self._now())
        with self._lock:
            waiting = sum(
                served.tokens
                for (account, day), served in self._unwritten.items()
                if account.tenant_id == tenant_id and day.startswith(period)
            )
        return waiting + store.tokens_in(session, tenant_id, period)


def _mark(actor: Actor, account: Account) -> _Mark:
    """Whose verdict it is. Budgets are asked for what costs money alone: what is free has a verdict of its own."""
    return actor.tenant_id, actor.user_id, actor.key_id, account.price.free
