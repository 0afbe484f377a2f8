"""Prices, holds, usage and the ledger."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier import ids
from luthier.accounts.quotas import Quotas
from luthier.accounts.types import Actor
from luthier.billing import budget_store, price_book, reports, rules, store
from luthier.billing.budgets import Budgets, PlatformBudget, Spender
from luthier.billing.machine import Machine, this_machine
from luthier.billing.refunds import Refunds
from luthier.billing.tokens import Metering, TokenMeter
from luthier.billing.types import Charge, HardwareUsage, Hold, JobCost, MonthlyReport, Price, Refund, Segment, UsageReport
from luthier.database import EVERY_TENANT, Database, insert, page
from luthier.errors import FieldInvalid, NotFound
from luthier.seams import Clock
from luthier.values import Page, Usd

_DOLLARS = TypeAdapter[str](Usd)
_IN_A_PRICE = ("description", "kind", "micro_usd_per_hour", "machine", "memory_bytes", "assumed_flops")


class Billing:
    """What usage costs. Prices a running job by the price that its usage segment began with."""

    def __init__(
        self,
        database: Database,
        now: Clock,
        machine: Machine | None = None,
        platform: PlatformBudget | None = None,
        metering: Metering | None = None,
    ) -> None:
        self._database = database
        self._now = now
        self._machine = machine or this_machine()
        self._refunds = Refunds(database, now)
        self.budgets = Budgets(database, now, platform or PlatformBudget())
        self.tokens = TokenMeter(database, self.budgets, metering or Metering(Quotas(database, {})), now)

    def first_start(self) -> None:
        """Give hardware that has no price yet that of the shipped book; afterwards the table is the truth. Safe to repeat."""
        with self._database.read(EVERY_TENANT) as session:  # an ordinary start waits for no writer
            if not _unpriced(session) and (budget_store.any_spending(session) or not store.jobs_with_usage(session)):
                return
        with self._database.write(EVERY_TENANT) as session:
            session.add_all(self._row(entry) for entry in _unpriced(session))
            if not budget_store.any_spending(session):
                self._recount(session)

    def adopt(self, book: Sequence[price_book.Entry]) -> None:
        """Let prices, and what else the book says of hardware, be those of this book; usage that has begun keeps its own price.
        Safe to repeat.

        Raises: SetupError where hardware that is known has no price in it.
        """
        with self._database.read(EVERY_TENANT) as session:
            old = {row.hardware: _price_facts(row) for row in store.prices(session)}
        price_book.complete(book, old)
        new = [entry for entry in book if not _said(entry).items() <= old.get(entry.hardware, {}).items()]
        if not new:
            return
        with self._database.write(EVERY_TENANT) as session:
            for entry in new:
                row = store.price(session, entry.hardware)
                if row is None:
                    session.add(self._row(entry))
                else:
                    self._replace(session, row, **_said(entry))

    def prices(self) -> list[Price]:
        """All prices that are valid now, cheapest first."""
        with self._database.read(EVERY_TENANT) as session:
            return [self._price(row) for row in store.prices(session)]

    def price(self, hardware: str) -> Price:
        """The price of this hardware now. Raises: FieldInvalid."""
        row = store.price_now(self._database, hardware)
        if row is None:
            raise self._unknown(hardware)
        return self._price(row)

    def set_price(self, hardware: str, hourly_usd: str) -> Price:
        """From now on this hardware costs that much; usage that has begun keeps its price to the end of its segment.

        Raises: FieldInvalid.
        """
        try:
            micro_usd = rules.micro_usd(_DOLLARS.validate_python(hourly_usd))
        except ValidationError:
            raise FieldInvalid(
                "A price is dollars per hour, with at most 6 places.", hint='For example "1.50".', param="hourly_usd"
            ) from None
        with self._database.write(EVERY_TENANT) as session:
            old = store.price(session, hardware)
            if old is None:
                raise self._unknown(hardware)
            if not price_book.may_cost(hardware, micro_usd):
                raise FieldInvalid(f"{hardware} would cost nothing.", hint=price_book.ONLY_OURS_IS_FREE, param="hourly_usd")
            new = self._replace(session, old, micro_usd_per_hour=micro_usd)
        return self._price(new)

    def job_cost(self, actor: Actor, job_id: str) -> JobCost:
        """What a job has cost so far. Raises: NotFound."""
        with self._database.read(actor.tenant_id) as session:
            hold = store.hold_of(session, job_id)
            if hold is None:
                raise NotFound("job")
            used = store.segments(session, job_id)
            price = used[-1].micro_usd_per_hour if used else self._now_costs(session, hold.hardware)
        ms = sum(segment.ms for segment in used)
        return JobCost(
            job_id=job_id,
            hardware=hold.hardware,
            hourly_usd=rules.usd(price),
            elapsed_seconds=ms / 1000,
            elapsed_hours=ms / rules.MS_PER_HOUR,
            cost_usd=rules.usd(rules.charge(_stretches(used))),
            held_usd=rules.usd(hold.left),
            settled=hold.settled_at is not None,
        )

    def costs(self, session: Session, job_ids: Iterable[str]) -> dict[str, int]:
        """The cumulative charge of each of these jobs, in micro-dollars."""
        return {job_id: rules.charge(_stretches(store.segments(session, job_id))) for job_id in job_ids}

    def used_ms(self, session: Session, job_id: str) -> int:
        """The billed time of a job, all attempts together."""
        return sum(segment.ms for segment in store.segments(session, job_id))

    def usage(self, actor: Actor) -> UsageReport:
        """The current month of the caller's tenant."""
        self.tokens.keep()
        now = self._now()
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        with self._database.read(actor.tenant_id) as session:
            # A segment that began before the month's end and reaches into it is at most a segment long, and then some.
            since = month - timedelta(milliseconds=2 * rules.SEGMENT_MS)
            rows = store.segments_of_jobs_used_since(session, since)
            held = store.held(session)
            tokens = self.tokens.usage(session, rules.period_of(now))
            refunded = store.refunded(session, rules.period_of(now))
        used = _used_in(rules.period_of(now), rows)
        by_hardware = {
            name: HardwareUsage(seconds=ms / 1000, cost_usd=rules.usd(money)) for name, (ms, money) in sorted(used.items())
        }
        total = sum(money for _, money in used.values()) + sum(rules.micro_usd(each.cost_usd) for each in tokens)
        return UsageReport(
            period=rules.period_of(now),
            cost_usd=rules.usd(total),
            refunded_usd=rules.usd(refunded),
            held_usd=rules.usd(held),
            by_hardware=by_hardware,
            tokens=tuple(tokens),
        )

    def history(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Charge]:
        """The ledger, newest first. Raises: CursorInvalid."""
        with self._database.read(actor.tenant_id) as session:
            rows, cursor = page(session, select(store.LedgerRow), store.LedgerRow, after=after, limit=limit)
        return Page(data=[_charge(row) for row in rows], next_cursor=cursor)

    def report(self, actor: Actor, period: str, names: Callable[[Iterable[str]], Mapping[str, str]]) -> MonthlyReport:
        """A month of the ledger. `names` says what jobs are called. Raises: FieldInvalid for a month that has not begun."""
        if period > rules.period_of(self._now()):
            raise FieldInvalid("This month has not begun.", hint="A month is `YYYY-MM`, in UTC.", param="period")
        self.tokens.keep()
        with self._database.read(actor.tenant_id) as session:
            rows = store.lines_in(session, period)
            tokens = self.tokens.usage(session, period)
        booked = [
            reports.Booked(row.job_id, user_id or "", row.hardware, row.ms, row.micro_usd, row.refund_key is not None)
            for row, user_id in rows
        ]
        return reports.report(period, booked, names({each.job_id for each in booked}), tokens)

    def refund(self, wanted: Refund) -> Charge:
        """Give back what a job was charged, once a key. Raises: NotFound, FieldInvalid, KeyReused."""
        return _charge(self._refunds.add(wanted))

    def hold(self, session: Session, actor: Actor, hold: Hold) -> None:
        """Set money aside for a job, in the transaction that queues it. Raises: BudgetExceeded, and nothing is set aside."""
        bound = self.budgets.check(session, actor, hold.micro_usd)
        earlier = None if hold.first else store.look_at_hold(session, hold.job_id)
        charged = earlier.charged_micro_usd if earlier else 0
        row = store.HoldRow(
            job_id=hold.job_id,
            tenant_id=actor.tenant_id,
            user_id=earlier.user_id if earlier else actor.user_id,
            key_id=actor.paying_key_id,
            key_cap_micro_usd=actor.spend_cap_micro_usd,
            hardware=hold.hardware,
            micro_usd=charged + hold.micro_usd,
            charged_micro_usd=charged,
            created_at=self._now(),
            settled_at=None,
        )
        if earlier is None:
            insert(session, row)
        else:
            session.merge(row)
            session.flush()
        if bound or row.user_id != actor.user_id:
            self.budgets.tell(session, Spender(actor.tenant_id, row.user_id))

    def key_of(self, session: Session, job_id: str) -> str | None:
        """The key that a job was submitted with: its spend cap binds the job."""
        hold = store.hold_of(session, job_id)
        return hold.key_id if hold else None

    def beat(self, session: Session, segment: Segment) -> int:
        """Note usage, at the price of when its segment was noted first; a repeated or shorter segment changes nothing.

        Returns the job's cumulative charge in micro-dollars.
        """
        before = _stretches(store.segments(session, segment.job_id))
        if not store.longer(session, segment):
            price = store.price(session, segment.hardware)
            if price is None:
                raise self._unknown(segment.hardware)
            row = store.SegmentRow(**vars(segment), price_id=price.id, micro_usd_per_hour=price.micro_usd_per_hour)
            session.add(row)
            session.flush()
        after = _stretches(store.segments(session, segment.job_id))
        added = rules.difference(rules.by_day(before), rules.by_day(after))
        if added:
            hold = store.charge(session, segment.job_id, rules.charge(after))
            self.budgets.spend(session, Spender(segment.tenant_id, hold.user_id if hold else ""), added)
        return rules.charge(after)

    def over_budget(self, session: Session, job_id: str) -> str | None:
        """The budget that a running job has to end for, in words; None where it may go on."""
        hold, used = store.hold_of(session, job_id), store.segments(session, job_id)
        if hold is None or not used:
            return None
        spender = Spender(hold.tenant_id, hold.user_id, hold.key_id, hold.key_cap_micro_usd)
        return self.budgets.stops(session, spender, used[-1].micro_usd_per_hour)

    def settle(self, session: Session, tenant_id: str, job_id: str) -> int:
        """Replace the hold by what was used, in the ledger, once: a second call adds nothing. Returns the charge."""
        used = store.segments(session, job_id)
        hardware = {(segment.attempt, segment.seq): segment.hardware for segment in used}
        lines = rules.lines(_stretches(used))
        in_order = sorted(ids.new(ids.CHARGE) for _ in lines)  # ids made within one millisecond are not sorted
        rows = [
            store.LedgerRow(
                **vars(line),
                id=line_id,
                tenant_id=tenant_id,
                job_id=job_id,
                hardware=hardware[line.attempt, line.seq],
                at=self._now(),
            )
            for line, line_id in zip(lines, in_order, strict=True)
        ]
        store.add_lines(session, rows)
        store.close_hold(session, job_id, self._now())
        return sum(row.micro_usd for row in rows)

    def _recount(self, session: Session) -> None:
        """Spending by day, from the usage of a database that was made before there was such a table."""
        for job_id in store.jobs_with_usage(session):
            used = store.segments(session, job_id)
            hold = store.charge(session, job_id, rules.charge(_stretches(used)))
            for day, amount in rules.by_day(_stretches(used)).items():
                who = {"tenant_id": used[0].tenant_id, "user_id": hold.user_id if hold else ""}
                budget_store.spend(session, budget_store.SpendingRow(**who, day=day, micro_usd=amount))

    def _row(self, entry: price_book.Entry) -> store.PriceRow:
        facts = entry.model_dump(exclude={"hourly_usd"})
        return store.PriceRow(
            **facts, id=ids.new(ids.PRICE), micro_usd_per_hour=rules.micro_usd(entry.hourly_usd), valid_from=self._now()
        )

    def _replace(self, session: Session, old: store.PriceRow, **changed: Any) -> store.PriceRow:
        """End a price and begin the next at the same moment: there is none at which hardware has no price, or two."""
        now = self._now()
        old.valid_until = now
        session.flush()  # the index allows one open price a hardware: the old one ends first
        facts = {**_price_facts(old), **changed}
        new = store.PriceRow(**facts, id=ids.new(ids.PRICE), hardware=old.hardware, valid_from=now)
        session.add(new)
        return new

    def _price(self, row: store.PriceRow) -> Price:
        return Price(
            hardware=row.hardware,
            description=row.description,
            hourly_usd=rules.usd(row.micro_usd_per_hour),
            kind="cpu" if row.kind == "cpu" else "gpu",
            memory_bytes=self._machine.memory_bytes if row.machine else row.memory_bytes,
            assumed_flops=row.assumed_flops or self._machine.assumed_flops,
            bf16=self._machine.bf16 if row.machine else row.kind != "cpu",
            valid_from=row.valid_from,
        )

    def _now_costs(self, session: Session, hardware: str) -> int:
        row = store.price(session, hardware)
        return row.micro_usd_per_hour if row else 0

    def _unknown(self, hardware: str) -> FieldInvalid:
        names = [price.hardware for price in self.prices()]
        near = difflib.get_close_matches(hardware[:64], names, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`tune pricing` lists all of them."
        return FieldInvalid(f"This hardware is not one of the {len(names)} in the price book.", hint=hint, param="hardware")


def _price_facts(row: store.PriceRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _IN_A_PRICE}


def _said(entry: price_book.Entry) -> dict[str, Any]:
    """What a book says of hardware; what it leaves out stays as it was."""
    given = entry.model_dump(include=entry.model_fields_set & {*_IN_A_PRICE})
    return {**given, "micro_usd_per_hour": rules.micro_usd(entry.hourly_usd)}


def _unpriced(session: Session) -> list[price_book.Entry]:
    known = {row.hardware for row in store.prices(session)}
    return [entry for entry in price_book.shipped() if entry.hardware not in known]


def _stretches(rows: Iterable[store.SegmentRow]) -> list[rules.Stretch]:
    return [
        rules.Stretch(
            attempt=row.attempt, seq=row.seq, started_at=row.started_at, ms=row.ms, micro_usd_per_hour=row.micro_usd_per_hour
        )
        for row in rows
    ]


def _used_in(period: str, rows: Sequence[store.SegmentRow]) -> dict[str, tuple[int, int]]:
    """Milliseconds and micro-dollars by hardware. By the ledger's own rule, so that the month's sum is the ledger's."""
    jobs: dict[str, list[store.SegmentRow]] = defaultdict(list)
    for row in rows:
        jobs[row.job_id].append(row)
    used: dict[str, tuple[int, int]] = {}
    for segments in jobs.values():
        hardware = segments[0].hardware
        for line in rules.lines(_stretches(segments)):
            if line.period == period:
                ms, money = used.get(hardware, (0, 0))
                used[hardware] = (ms + line.ms, money + line.micro_usd)
    return used


def _charge(row: store.LedgerRow) -> Charge:
    return Charge(
        id=row.id,
        job_id=row.job_id,
        attempt=row.attempt,
        period=row.period,
        hardware=row.hardware,
        seconds=row.ms / 1000,
        amount_usd=rules.usd(row.micro_usd),
        at=row.at,
        reason=row.reason,
    )
