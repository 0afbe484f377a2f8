"""Money adds up: nothing is lost or made by cutting time into pieces."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.billing import rules
from luthier.billing.rules import Stretch

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PRICES = st.integers(0, 10**9)
TIMES = st.integers(0, 10**10)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def pieces(price: int, times: list[int]) -> list[Stretch]:
    return [Stretch(attempt=1, seq=seq, started_at=NOON, ms=ms, micro_usd_per_hour=price) for seq, ms in enumerate(times)]


def test_the_seeds_example_an_hour_on_an_a100_is_ten_dollars():
    assert rules.usd(rules.charge(pieces(10_000_000, [3_600_000]))) == "10.00"


@given(PRICES, st.lists(TIMES, max_size=30))
def test_a_job_in_pieces_costs_what_it_costs_in_one(price, times):
    assert rules.charge(pieces(price, times)) == price * sum(times) // 3_600_000


@given(st.lists(st.tuples(PRICES, TIMES, MOMENTS), max_size=20))
def test_the_ledger_sums_to_the_charge_whatever_prices_and_months(used):
    stretches = [
        Stretch(attempt=1, seq=seq, started_at=moment, ms=ms, micro_usd_per_hour=price)
        for seq, (price, ms, moment) in enumerate(used)
    ]
    lines = rules.lines(stretches)
    assert sum(line.micro_usd for line in lines) == rules.charge(stretches)
    assert sum(line.ms for line in lines) == sum(ms for _, ms, _ in used)
    assert all(line.micro_usd >= 0 for line in lines)


@given(st.lists(st.tuples(PRICES, TIMES), min_size=1, max_size=10), st.data())
def test_what_comes_later_never_changes_earlier_lines(used, data):
    stretches = [
        Stretch(attempt=1 + index // 3, seq=index % 3, started_at=NOON, ms=ms, micro_usd_per_hour=price)
        for index, (price, ms) in enumerate(used)
    ]
    settled = rules.lines(stretches[: data.draw(st.integers(0, len(stretches)))])
    assert rules.lines(stretches)[: len(settled)] == settled


@given(MOMENTS, TIMES)
def test_time_cut_at_the_ends_of_months_sums_to_the_whole(moment, ms):
    parts = list(rules.by_period(moment, ms))
    assert sum(part for _, part in parts) == ms
    assert [period for period, _ in parts] == sorted({period for period, _ in parts})


@pytest.mark.parametrize(
    ("start", "ms", "parts"),
    [
        (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), 3000, [("2026-11", 1000), ("2026-12", 2000)]),
        (datetime(2028, 2, 29, 23, 59, 59, 999_500, tzinfo=UTC), 10, [("2028-02", 1), ("2028-03", 9)]),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), 3_600_000, [("2026-12", 3_600_000)]),
        (NOON, 0, []),
    ],
)
def test_a_month_ends_at_midnight_utc(start, ms, parts):
    assert list(rules.by_period(start, ms)) == parts


@given(st.integers(-(10**15), 10**15))
def test_dollars_are_written_exactly(micro_usd):
    assert rules.micro_usd(rules.usd(micro_usd)) == micro_usd


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=50).filter(any))
def test_shares_sum_to_the_whole_and_differ_from_their_part_by_less_than_one(total, weights):
    parts = rules.shares(total, weights)
    assert sum(parts) == total
    assert all(abs(part * sum(weights) - total * weight) < sum(weights) for part, weight in zip(parts, weights, strict=True))


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**7), min_size=1, max_size=64))
def test_the_time_of_a_process_is_divided_to_the_millisecond_and_more_tokens_never_pay_less(ms, tokens):
    parts = rules.shared_ms(ms, tokens)
    assert sum(parts) == ms
    for (token, part), (more, larger) in itertools.combinations(sorted(zip(tokens, parts, strict=True)), 2):
        assert part <= larger
        assert more > token or larger - part <= 1
    if any(tokens):
        assert all(part == 0 for token, part in zip(tokens, parts, strict=True) if token == 0)


@given(PRICES, st.integers(0, 10**7))
def test_a_hold_covers_what_it_was_made_for(price, seconds):
    held, cost = rules.expected_micro_usd(price, seconds), price * seconds * 1000 / 3_600_000
    assert cost <= held < cost + 1


def test_a_period_does_not_depend_on_the_callers_time_zone():
    paris = (datetime(2026, 11, 30, 23, 30, tzinfo=UTC)).astimezone(tz=None) + timedelta(0)
    assert rules.period_of(paris) == "2026-11"
