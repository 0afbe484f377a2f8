"""Billing on a real database: prices in time, usage that only grows, a ledger that is written once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from luthier.accounts.types import Actor, Role
from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.billing.store import PriceRow
from luthier.billing.types import Hold, Segment
from luthier.database import EVERY_TENANT, Database, Row
from luthier.errors import FieldInvalid, NotFound

ALICE = Actor("team_a", "user_a", Role.ADMIN)
BOB = Actor("team_b", "user_b", Role.ADMIN)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "luthier.db")
    Row.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def billing(database, clock):
    billing = Billing(database, clock, Machine(memory_bytes=8_000_000_000, cores=4))
    billing.first_start()
    return billing


def hold(database, billing, job_id="job_1", micro_usd=5_000_000):
    with database.write(ALICE.tenant_id) as session:
        billing.hold(session, ALICE, Hold(job_id=job_id, hardware="A100", micro_usd=micro_usd))


def segment(clock, ms: int, *, attempt=1, seq=0) -> Segment:
    return Segment(ALICE.tenant_id, "job_1", attempt, seq, "A100", clock(), ms)


def beat(database, billing, segment: Segment) -> int:
    with database.beat() as session:
        return billing.beat(session, segment)


def settle(database, billing) -> int:
    with database.write(EVERY_TENANT) as session:
        return billing.settle(session, ALICE.tenant_id, "job_1")


def test_the_price_book_has_this_machine_for_nothing_and_the_seeds_gpus(billing):
    prices = {price.hardware: price.hourly_usd for price in billing.prices()}
    assert prices["local-cpu"] == "0.00"
    assert prices["A100"] == "10.00"
    assert prices["t4-small"] == "0.75"
    assert billing.price("local-cpu").memory_bytes == 8_000_000_000


def test_the_shipped_book_does_not_overwrite_what_an_admin_set(billing):
    billing.set_price("local-cpu", "0.12")
    billing.first_start()
    assert billing.price("local-cpu").hourly_usd == "0.12"


@pytest.mark.parametrize("amount", ["-1", "1e3", "NaN", "1.1234567", "", "1,000"])
def test_a_price_that_is_no_amount_is_refused(billing, amount):
    with pytest.raises(FieldInvalid):
        billing.set_price("local-cpu", amount)


def test_hardware_that_is_not_in_the_book_is_refused_with_the_nearest_name(billing):
    with pytest.raises(FieldInvalid, match="Did you mean t4-small"):
        billing.price("t4-smal")


def test_a_segment_that_is_sent_again_or_late_changes_nothing(database, billing, clock):
    hold(database, billing)
    first = segment(clock, 3_600_000)
    assert beat(database, billing, first) == 10_000_000
    assert beat(database, billing, first) == 10_000_000
    assert beat(database, billing, replace(first, ms=10)) == 10_000_000
    assert billing.job_cost(ALICE, "job_1").elapsed_hours == 1.0


def test_settling_twice_charges_once(database, billing, clock):
    hold(database, billing)
    beat(database, billing, segment(clock, 1_800_000))
    assert [settle(database, billing) for _ in range(2)] == [5_000_000, 5_000_000]
    assert [charge.amount_usd for charge in billing.history(ALICE).data] == ["5.00"]
    cost = billing.job_cost(ALICE, "job_1")
    assert (cost.cost_usd, cost.held_usd, cost.settled) == ("5.00", "0.00", True)


def test_a_resumed_job_is_held_again_and_only_its_new_time_is_added(database, billing, clock):
    hold(database, billing)
    beat(database, billing, segment(clock, 1_800_000))
    settle(database, billing)
    hold(database, billing, micro_usd=1_000_000)
    assert billing.job_cost(ALICE, "job_1").held_usd == "1.00"
    beat(database, billing, segment(clock, 360_000, attempt=2))
    settle(database, billing)
    assert [charge.amount_usd for charge in billing.history(ALICE).data] == ["1.00", "5.00"]


def test_a_price_that_changes_during_a_job_counts_from_its_next_segment_on(database, billing, clock):
    hold(database, billing)
    first = segment(clock, 60_000)
    beat(database, billing, first)
    billing.set_price("A100", "20.00")
    beat(database, billing, replace(first, ms=3_600_000))
    beat(database, billing, segment(clock, 3_600_000, seq=1))
    settle(database, billing)
    assert [charge.amount_usd for charge in billing.history(ALICE).data] == ["20.00", "10.00"]


def test_a_segment_costs_the_price_of_when_it_was_noted_first(database, billing, clock):
    hold(database, billing)
    begun = segment(clock, 0)
    assert beat(database, billing, begun) == 0
    clock.now -= timedelta(hours=1)
    billing.set_price("A100", "20.00")
    clock.now += timedelta(seconds=10)
    assert beat(database, billing, replace(begun, ms=10_000)) == 10 * 10_000_000 // 3600
    assert billing.job_cost(ALICE, "job_1").hourly_usd == "10.00"
    following = segment(clock, 10_000, seq=1)
    assert beat(database, billing, following) == 10 * 30_000_000 // 3600


def test_there_is_no_moment_without_a_price_or_with_two(database, clock):
    def ticking():
        clock.now += timedelta(milliseconds=1)
        return clock.now

    billing = Billing(database, ticking, Machine(memory_bytes=8_000_000_000, cores=4))
    billing.first_start()
    for price in ("11.00", "12.00"):
        billing.set_price("A100", price)
    with database.read(EVERY_TENANT) as session:
        rows = session.scalars(select(PriceRow).where(PriceRow.hardware == "A100").order_by(PriceRow.valid_from)).all()
    assert [row.valid_until for row in rows] == [*(row.valid_from for row in rows[1:]), None]


def test_a_job_that_was_cancelled_in_the_queue_costs_nothing(database, billing):
    hold(database, billing)
    assert settle(database, billing) == 0
    assert billing.history(ALICE).data == []
    assert billing.job_cost(ALICE, "job_1").settled


def test_a_segment_over_the_end_of_a_month_is_two_lines(database, billing, clock):
    clock.now = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    hold(database, billing)
    beat(database, billing, segment(clock, 3_600_000))
    clock.now += timedelta(hours=1)
    assert billing.usage(ALICE).cost_usd == "5.00"
    settle(database, billing)
    assert [(charge.period, charge.amount_usd) for charge in billing.history(ALICE).data] == [
        ("2026-12", "5.00"),
        ("2026-11", "5.00"),
    ]
    assert billing.usage(ALICE).cost_usd == "5.00"


def test_the_month_shows_what_is_used_and_what_is_held(database, billing, clock):
    hold(database, billing, micro_usd=12_000_000)
    assert billing.usage(ALICE).held_usd == "12.00"
    beat(database, billing, segment(clock, 3_600_000))
    usage = billing.usage(ALICE)
    assert (usage.period, usage.cost_usd, usage.held_usd) == ("2026-11", "10.00", "2.00")
    assert usage.by_hardware["A100"].seconds == 3600


def test_another_tenants_money_is_not_there(database, billing, clock):
    hold(database, billing)
    beat(database, billing, segment(clock, 3_600_000))
    settle(database, billing)
    with pytest.raises(NotFound):
        billing.job_cost(BOB, "job_1")
    assert billing.history(BOB).data == []
    assert billing.usage(BOB).cost_usd == "0.00"
