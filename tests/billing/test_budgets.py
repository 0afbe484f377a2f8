"""Budgets: decisions as rules, and the sums that they stand on."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.money import check_money

from luthier.accounts.types import Actor, Role
from luthier.billing import rules
from luthier.billing.budget_rules import THRESHOLDS, Standing, admits, must_stop, reached, unusual
from luthier.billing.budgets import PlatformBudget
from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.billing.types import Hold, Refund, Segment
from luthier.database import EVERY_TENANT, Database, Row
from luthier.errors import BudgetExceeded, SetupError
from luthier.settings import Settings

ALICE = Actor("team_a", "user_a", Role.ADMIN)
BOB = Actor("team_b", "user_b", Role.ADMIN)
EDGES = [datetime(2027, 3, 28, 0, 30), datetime(2028, 2, 28, 23, 50), datetime(2028, 2, 29, 23, 59), datetime(2026, 12, 31, 23)]
AMOUNTS = st.integers(0, 10**12)


class World:
    def __init__(self, folder, platform=None):
        self.at = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.database = Database(folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        self.billing = Billing(self.database, lambda: self.at, Machine(8_000_000_000, 4), platform)
        self.billing.first_start()

    def hold(self, micro_usd, job="job_1", actor=ALICE):
        with self.database.write(actor.tenant_id) as session:
            self.billing.hold(session, actor, Hold(job, "A100", micro_usd))

    def beat(self, ms, job="job_1", *, seq=0, began=None, actor=ALICE):
        with self.database.beat() as session:
            self.billing.beat(session, Segment(actor.tenant_id, job, 1, seq, "A100", began or self.at, ms))
            return self.billing.over_budget(session, job)

    def settle(self, job="job_1", actor=ALICE):
        with self.database.write(EVERY_TENANT) as session:
            return self.billing.settle(session, actor.tenant_id, job)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


@given(limit=AMOUNTS, spent=AMOUNTS, held=AMOUNTS, asked=st.integers(1, 10**12))
def test_what_is_admitted_never_passes_the_limit(limit, spent, held, asked):
    standing = Standing(limit, spent, held)
    assert admits(standing, asked) == (limit > 0 and spent + held + asked <= limit)
    if must_stop(standing, 1):
        assert not admits(standing, asked)


@given(limit=st.integers(1, 10**12), steps=st.lists(st.integers(0, 10**11), max_size=20))
def test_each_threshold_is_told_once_however_spending_grows(limit, steps):
    told, spent = [], 0
    for step in steps:
        spent += step
        told += reached(Standing(limit, spent, 0), told)
    assert told == [each for each in THRESHOLDS if spent * 100 >= each * limit]


@given(st.lists(st.integers(1_000_000, 2_000_000), min_size=7, max_size=30))
def test_ordinary_days_are_not_unusual_and_ten_times_as_much_is(history):
    assert not unusual(sorted(history)[len(history) // 2], history)
    assert unusual(max(history) * 40, history)
    assert not unusual(max(history) * 40, history[:6])


@given(
    began=st.sampled_from(EDGES),
    parts=st.lists(st.tuples(st.integers(0, 5 * rules.SEGMENT_MS), st.integers(0, 10**8)), min_size=1, max_size=6),
    skew=st.sampled_from([-3600, 0, 3600]),
)
def test_f19_days_sum_to_months_and_months_to_the_whole(began, parts, skew):
    """Month end, leap day, DST, a clock that steps an hour, a price that changes in mid-job."""
    stretches, here = [], began.replace(tzinfo=UTC)
    for seq, (ms, price) in enumerate(parts):
        stretches.append(rules.Stretch(1, seq, here, ms, price))
        here += timedelta(milliseconds=ms, seconds=skew)
    days, months = rules.by_day(stretches), {}
    for line in rules.lines(stretches):
        months[line.period] = months.get(line.period, 0) + line.micro_usd
    assert sum(months.values()) == sum(days.values()) == rules.charge(stretches)
    for month, amount in months.items():
        assert sum(part for day, part in days.items() if day.startswith(month)) == amount


def test_f17_a_running_job_whose_budget_is_used_up_is_told_to_end(world):
    world.billing.budgets.set(ALICE, 10_000_000)
    world.hold(9_000_000)
    assert world.beat(1_800_000) is None
    assert world.beat(3_600_000) == "the budget of your team"
    world.hold(1_000_000, "job_2", BOB)
    assert world.beat(3_600_000, "job_2", actor=BOB) is None
    check_money(world.database)


def test_a_new_month_begins_at_nothing_and_tells_again(world):
    world.billing.budgets.set(ALICE, 10_000_000)
    world.hold(5_000_000)
    world.beat(3_600_000)
    world.settle()
    assert world.billing.budgets.list(ALICE)[0].alerts == (50, 80, 100)
    with pytest.raises(BudgetExceeded):
        world.hold(1, "job_2")
    world.at = datetime(2026, 12, 1, tzinfo=UTC)
    world.hold(5_000_000, "job_2")
    (found,) = world.billing.budgets.list(ALICE)
    assert (found.spent_usd, found.held_usd, found.alerts) == ("0.00", "5.00", (50,))
    check_money(world.database)


def test_the_platforms_budget_is_shared_by_all_teams(tmp_path):
    world = World(tmp_path, PlatformBudget(10_000_000, lambda _: ALICE.tenant_id))
    world.hold(6_000_000)
    with pytest.raises(BudgetExceeded, match="platform"):
        world.hold(5_000_000, "job_2", BOB)
    world.hold(4_000_000, "job_2", BOB)
    assert [budget.of for budget in world.billing.budgets.list(ALICE)] == ["platform"]
    assert world.billing.budgets.list(BOB) == []
    world.database.close()


def test_a_keys_spend_cap_binds_what_it_starts(world):
    key = Actor(ALICE.tenant_id, ALICE.user_id, Role.MEMBER, key_id="key_1", spend_cap_micro_usd=5_000_000)
    world.hold(4_000_000, actor=key)
    with pytest.raises(BudgetExceeded, match="spend cap"):
        world.hold(2_000_000, "job_2", key)
    world.hold(2_000_000, "job_2")


def test_a_running_job_whose_keys_spend_cap_is_used_up_is_told_to_end(world):
    key = Actor(ALICE.tenant_id, ALICE.user_id, Role.MEMBER, key_id="key_1", spend_cap_micro_usd=5_000_000)
    world.hold(4_000_000, actor=key)
    world.hold(9_000_000, "job_2")
    assert world.beat(1_799_999) is None
    assert world.beat(1_800_000) == "the spend cap of this key"
    assert world.beat(3_600_000, "job_2") is None


def test_b03_b04_b07_usage_is_counted_once_and_nothing_costs_nothing(world):
    world.hold(1_000_000)
    assert world.settle() == 0
    world.hold(1_000_000, "job_2")
    world.beat(1_800_000, "job_2")
    world.billing.set_price("A100", "20.00")
    for ms in (1_800_000, 900_000, 3_600_000):  # repeated, out of order, grown: at the price that it began with
        world.beat(ms, "job_2")
    assert world.settle("job_2") == 10_000_000
    world.billing.refund(Refund("job_2", 4_000_000, "broken", "k"))
    check_money(world.database)


@pytest.mark.parametrize("value", ["1e3", "-5", "NaN", "$100", "1,000", "inf", "0x10", " 5"])
def test_e06_a_budget_limit_in_the_environment_is_plain_dollars(monkeypatch, value):
    monkeypatch.setenv("BUDGET_LIMIT_USD", value)
    with pytest.raises(SetupError, match="BUDGET_LIMIT_USD"):
        Settings.load()


def test_the_seeds_name_of_the_limit_is_read_and_ours_wins(monkeypatch):
    monkeypatch.setenv("BUDGET_LIMIT_USD", "100")
    assert Settings.load().budget_limit_usd == "100"
    monkeypatch.setenv("LUTHIER_BUDGET_LIMIT_USD", "7.50")
    assert Settings.load().budget_limit_usd == "7.50"
