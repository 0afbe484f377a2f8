"""Served tokens: counted to the token, charged to the micro-dollar, whatever happens between two rounds."""

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.accounts.quotas import Quota, Quotas
from luthier.accounts.types import Actor, Role
from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.billing.token_rules import Served, TokenPrice, charge, parsed, price_of
from luthier.billing.tokens import ROUND_S, Metering
from luthier.database import EVERY_TENANT, Database, Row
from luthier.errors import BudgetExceeded, DatabaseBusy, QuotaExceeded, SetupError

ALICE = Actor("team_a", "user_a", Role.ADMIN)
ANN = Actor("team_a", "user_n", Role.ADMIN)
BOB = Actor("team_b", "user_b", Role.ADMIN)
COUNTS = st.integers(0, 10**9)


class World:
    def __init__(self, folder, prices="*=0.15/0.60/5.00", limit=0):
        self.at, self.clock = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), 0.0
        self.database = Database(folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        self.quotas = Quotas(self.database, {Quota.SERVED_TOKENS_A_MONTH: limit})
        self.prices = parsed(prices)
        self.billing = self.another()
        self.meter = self.billing.tokens

    def another(self):
        """Billing as another process would have it."""
        metering = Metering(self.quotas, self.prices, lambda: self.clock)
        return Billing(self.database, lambda: self.at, Machine(8_000_000_000, 4), metering=metering)

    def serve(self, actor=ALICE, kind="chat", model="model_1", base="luthier/tiny", **counts):
        account = self.meter.account(actor, kind, model, base)
        self.meter.admit(actor, account, counts.get("prompt_tokens", 0))
        self.meter.add(account, Served(**counts))


@pytest.fixture
def make(tmp_path):
    worlds = []

    def make(**given):
        worlds.append(World(tmp_path, **given))
        return worlds[-1]

    yield make
    for world in worlds:
        world.database.close()


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=20), COUNTS, COUNTS)
def test_many_small_answers_cost_what_one_large_one_costs(answers, prompt_price, completion_price):
    price, whole, charged = TokenPrice(prompt_price, completion_price), Served(), 0
    for prompt, completion in answers:
        before, whole = whole, whole + Served(1, prompt, completion)
        charged += charge(price, "chat", whole) - charge(price, "chat", before)
    assert charged == (prompt_price * whole.prompt_tokens + completion_price * whole.completion_tokens) // 1_000_000


def test_usage_and_bill_tell_the_same_to_the_micro_dollar(make):
    world = make()
    for _ in range(1000):
        world.serve(requests=1, prompt_tokens=7, completion_tokens=3)
    world.serve(ANN, "predict", "model_2", requests=1000)
    world.serve(BOB, requests=1, prompt_tokens=10**9)
    usage, report = world.billing.usage(ALICE), world.billing.report(ALICE, "2026-11", lambda _: {})
    assert [tuple(each.model_dump().values()) for each in usage.tokens] == [
        ("model_1", "chat", "user_a", 1000, 7000, 3000, "0.00285"),
        ("model_2", "predict", "user_n", 1000, 0, 0, "0.005"),
    ]
    assert usage.cost_usd == report.total_usd == "0.00785"
    assert (report.by_user["user_n"].amount_usd, report.tokens) == ("0.005", usage.tokens)


def test_nothing_is_written_before_a_round_and_nothing_twice_after_it(make):
    world = make()
    world.serve(requests=1, prompt_tokens=5)
    other = world.another()
    assert other.usage(ALICE).tokens == ()
    assert (world.meter.keep(), world.meter.keep()) == (1, 0)
    assert other.usage(ALICE).tokens[0].prompt_tokens == 5


def test_a_clean_stop_writes_the_rest(make):
    world = make()
    world.serve(requests=1, completion_tokens=9)
    world.meter.close()
    assert world.another().usage(ALICE).tokens[0].completion_tokens == 9


def test_a_round_that_fails_loses_nothing(make):
    world = make()
    world.serve(requests=1, completion_tokens=9)
    found = []
    with world.database.write(EVERY_TENANT):
        thread = threading.Thread(target=lambda: found.append(_failure(world.meter.keep)))
        thread.start()
        thread.join()
    assert isinstance(found[0], DatabaseBusy)
    world.serve(requests=1, completion_tokens=1)
    world.meter.keep()
    assert world.another().usage(ALICE).tokens[0].completion_tokens == 10


def _failure(work):
    try:
        work()
    except DatabaseBusy as error:
        return error
    return None


def test_threads_that_count_at_once_lose_nothing(make):
    world = make(prices="")
    account = world.meter.account(ALICE, "chat", "model_1", "luthier/tiny")

    def count():
        for _ in range(2000):
            world.meter.add(account, Served(completion_tokens=1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        world.meter.keep()
    world.meter.keep()
    assert world.billing.usage(ALICE).tokens[0].completion_tokens == 8000


def test_a_day_counts_for_its_own_month_and_a_new_price_from_now_on(make):
    world = make()
    world.serve(requests=1, prompt_tokens=1_000_000)
    world.at = datetime(2026, 12, 1, tzinfo=UTC)
    world.serve(requests=1, prompt_tokens=2_000_000)
    assert world.billing.report(ALICE, "2026-11", lambda _: {}).total_usd == "0.15"
    world.prices = parsed("*=1/1")
    dearer = world.another()
    dearer.tokens.add(dearer.tokens.account(ALICE, "chat", "model_1", "luthier/tiny"), Served(1, 1_000_000))
    assert (dearer.usage(ALICE).cost_usd, len(dearer.usage(ALICE).tokens)) == ("1.30", 1)


def test_the_quota_of_a_month_is_refused_with_its_numbers(make):
    world = make(limit=100)
    world.serve(requests=1, prompt_tokens=60, completion_tokens=30)
    with pytest.raises(QuotaExceeded) as refused:
        world.serve(requests=1, prompt_tokens=11)
    assert refused.value.details == {"quota": "served_tokens_a_month", "limit": 100, "used": 90, "asked": 11}
    world.serve(requests=1, prompt_tokens=10)
    world.serve(BOB, requests=1, prompt_tokens=100)
    world.at, world.clock = datetime(2026, 12, 1, tzinfo=UTC), ROUND_S
    world.serve(requests=1, prompt_tokens=100)


def test_what_is_free_is_held_against_the_quota_too(make):
    world = make(prices="", limit=100)
    account = world.meter.account(ALICE, "predict", "model_1", "luthier/tiny")
    assert not world.meter.admitted(ALICE, account), "nobody has looked yet"
    world.serve(kind="predict", requests=1, prompt_tokens=100)
    assert world.meter.admitted(ALICE, account)
    world.meter.add(account, Served(prompt_tokens=1))
    assert not world.meter.admitted(ALICE, account)
    with pytest.raises(QuotaExceeded):
        world.meter.admit(ALICE, account)


def test_that_something_is_free_lets_nothing_in_that_is_not(make):
    world = make(prices="dear/base=1/1/1")
    world.billing.budgets.set(ALICE, 1)
    world.serve(kind="predict", base="dear/base", requests=1_000)
    world.meter.keep()
    world.clock += ROUND_S
    world.serve(kind="predict", requests=1)
    with pytest.raises(BudgetExceeded):
        world.serve(kind="predict", base="dear/base", requests=1)


def test_no_question_is_taken_in_when_the_budget_is_spent(make):
    world = make()
    world.billing.budgets.set(ALICE, 1_000)
    world.serve(requests=1, prompt_tokens=10_000)
    world.meter.keep()
    world.clock += ROUND_S
    with pytest.raises(BudgetExceeded, match=r"Answers cost something here; .* has \$0\.00 left of \$0\.001\."):
        world.serve(requests=1, prompt_tokens=1)
    assert not world.meter.admitted(ALICE, world.meter.account(ALICE, "predict", "model_1", "luthier/tiny"))
    assert world.billing.budgets.list(ALICE)[0].spent_usd == "0.0015"


@pytest.mark.parametrize("text", ["luthier/tiny", "=1/2", "a=1", "a=1/2/3/4", "a=1/-2", "a=1/x", "a=1/2,a=1/2", "a=1e3/2"])
def test_a_price_that_is_none_stops_the_start(text):
    with pytest.raises(SetupError, match="LUTHIER_TOKEN_PRICES"):
        parsed(text)


def test_the_base_says_the_price_and_what_is_not_named_is_free():
    prices = parsed("luthier/tiny=1/2")
    assert price_of(prices, "luthier/tiny") == TokenPrice(1_000_000, 2_000_000)
    assert price_of(prices, "other/base").free
