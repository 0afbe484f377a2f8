"""The time of a process that trains several jobs is divided among them, and nothing of it is lost or made."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.billing.rules import SEGMENT_MS
from luthier.billing.types import Segment
from luthier.jobs.metering import Meter, ProcessTime

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def metered(*names: str) -> tuple[ProcessTime, dict[str, Meter]]:
    time = ProcessTime(read_at_s=0.0, most_s=10**6)
    meters = {name: Meter(Segment("team", name, 1, 0, "local-cpu", NOON, 0)) for name in names}
    for meter in meters.values():
        time.join(meter)
    return time, meters


def billed(meters: dict[str, Meter]) -> dict[str, int]:
    return {name: meter.total_ms for name, meter in meters.items()}


def test_no_millisecond_is_lost_to_binary_fractions() -> None:
    time = ProcessTime(read_at_s=1000.0, most_s=10**6)
    for at_ms in range(1_001_911, 1_200_000, 1_911):
        time.advance(at_ms / 1000)
        assert time.total_ms == at_ms - 1_000_000


def test_time_is_divided_by_the_tokens_that_were_trained_in_it():
    time, meters = metered("a", "b")
    time.advance(4.0)
    time.divide(NOON)  # both load the base
    for at_s, tokens_of_a in ((8.0, 300), (12.0, 300)):
        time.trained("a", tokens_of_a, resumed=False)
        time.trained("b", tokens_of_a // 3, resumed=False)
        time.advance(at_s)
    time.divide(NOON)
    assert billed(meters) == {"a": 2000 + 6000, "b": 2000 + 2000}


def test_whoever_has_left_pays_no_more():
    time, meters = metered("a", "b")
    time.advance(4.0)
    time.leave("a", NOON)
    time.advance(5.0)
    time.leave("b", NOON)
    time.advance(9.0)
    assert billed(meters) == {"a": 2000, "b": 3000}
    assert [meter.elapsed_ms for meter in meters.values()] == [4000, 5000]


def test_a_job_that_resumed_does_not_pay_for_the_tokens_of_earlier_attempts():
    time, meters = metered("a", "b")
    time.trained("a", 1_000_000, resumed=True)
    time.trained("b", 100, resumed=False)
    time.advance(1.0)
    time.divide(NOON)
    time.trained("a", 1_000_100, resumed=True)
    time.trained("b", 200, resumed=False)
    time.advance(2.0)
    time.divide(NOON)
    assert billed(meters) == {"a": 500, "b": 1500}


def test_a_segment_is_closed_after_an_hour_however_small_its_share():
    time, meters = metered("a", "b")
    time.trained("a", 10, resumed=False)
    time.advance(SEGMENT_MS / 1000)
    time.divide(NOON)
    assert [segment.seq for segment in meters["b"].segments] == [0]
    time.advance(SEGMENT_MS / 1000 + 1)
    time.divide(NOON)
    assert [(segment.seq, segment.ms) for segment in meters["b"].segments] == [(0, 0), (1, 500)]


@given(
    st.integers(1, 8),
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 7), st.integers(0, 10**6), st.sampled_from(["go on", "divide", "leave"])),
        max_size=40,
    ),
)
def test_the_shares_sum_to_the_time_of_the_process_whatever_happens(count, happenings):
    time, meters = metered(*(f"job{number}" for number in range(count)))
    now_s, alive = 0.0, set(meters)
    for passed_s, number, tokens, action in happenings:
        now_s += passed_s
        time.advance(now_s)
        time.trained(f"job{number}", tokens, resumed=False)
        if action == "divide":
            time.divide(NOON)
        elif action == "leave" and alive - {f"job{number}"}:
            time.leave(f"job{number}", NOON)
            alive.discard(f"job{number}")
    time.divide(NOON)
    assert sum(meter.total_ms for meter in meters.values()) == time.total_ms
    assert time.total_ms == pytest.approx(now_s * 1000, abs=2)
    assert all(sum(segment.ms for segment in meter.segments) == meter.total_ms for meter in meters.values())
