"""Who trains with whom: pure decisions."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.jobs.estimation import together_bytes
from luthier.jobs.sharing import ALONE, Sharing, Waiting, gang_of, gathers
from luthier.jobs.types import MemoryEstimate

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def memory(*, base=100, own=10, one_pass=20, available=None) -> MemoryEstimate:
    parts = {"base_bytes": base, "adapter_bytes": own, "optimizer_bytes": own, "activation_bytes": one_pass, "logits_bytes": 0}
    return MemoryEstimate(**parts, runtime_bytes=5, total_bytes=base + 2 * own + one_pass + 5, available_bytes=available)


def waiting(job: str, *, crashes=0, age_s=60.0, needs=None) -> Waiting:
    """`A1x`: the first job of tenant A, on base x; on base - it shares with nobody."""
    return Waiting(
        job_id=job,
        tenant_id=job[0],
        queued_at=NOON - timedelta(seconds=age_s),
        hardware="local-cpu",
        memory=needs or memory(),
        alike=None if job[2] == "-" else job[2],
        crashes=crashes,
    )


def gang(line: str, **sharing) -> str:
    return " ".join(job.job_id for job in gang_of([waiting(job) for job in line.split()], Sharing(most=4, **sharing)))


@pytest.mark.parametrize(
    ("line", "sharing", "together"),
    [
        ("A1x", {}, "A1x"),
        ("A1x A2x A3x", {}, "A1x A2x A3x"),
        ("A1x A2x A3x A4x A5x", {}, "A1x A2x A3x A4x"),
        ("A1x A2y A3x", {}, "A1x A3x"),  # who overtakes only its owner's own jobs may
        ("A1- A2- A3x", {}, "A1-"),
        ("A1x A2- A3x", {}, "A1x A3x"),
        ("A1x B1x A2x", {}, "A1x"),  # B has waited for longer than A2
        ("A1x A2x B1x A3x", {}, "A1x A2x"),
        ("A1x B1x A2x", {"spare_slots": 1}, "A1x A2x"),  # B starts in the same moment
        ("A1x B1x A2x B2y A3x", {"spare_slots": 1}, "A1x A2x"),
        ("A1x B1x A2x B2y A3x", {"spare_slots": 2}, "A1x A2x A3x"),
        ("A1x B1x A2x", {"across_tenants": True}, "A1x B1x A2x"),
        ("A1x B1y A2x C1x", {"across_tenants": True}, "A1x"),
        ("A1x A2y B1x A3x", {"across_tenants": True}, "A1x"),
    ],
)
def test_who_trains_together(line, sharing, together):
    assert gang(line, **sharing) == together


def test_by_itself_each_job_has_its_own_trainer():
    assert len(gang_of([waiting("A1x"), waiting("A2x")], ALONE)) == 1


@pytest.mark.parametrize(("crashes", "size"), [(0, 8), (1, 4), (2, 2), (3, 1), (9, 1)])
def test_each_crash_halves_the_gang_and_the_last_attempt_is_made_alone(crashes, size):
    line = [waiting(f"A{number}x", crashes=crashes) for number in range(9)]
    assert len(gang_of(line, Sharing(most=8, max_attempts=4))) == size


def test_a_job_that_crashed_does_not_make_others_wait():
    line = [waiting("A1x"), waiting("A2x"), waiting("A3x", crashes=3), waiting("A4x")]
    assert [job.job_id for job in gang_of(line, Sharing(most=8))] == ["A1x", "A2x", "A4x"]


@pytest.mark.parametrize(
    ("available", "free", "size"),
    [(None, {}, 4), (184, {}, 1), (185, {}, 2), (None, {"local-cpu": 185}, 2), (10**6, {"local-cpu": 185}, 2)],
)
def test_a_gang_is_no_larger_than_memory(available, free, size):
    # Two need 105 for base and process, 40 for their weights, 40 for a pass of both.
    line = [waiting(f"A{number}x", needs=memory(available=available)) for number in range(4)]
    assert len(gang_of(line, Sharing(most=4, free_bytes=free))) == size


def test_memory_of_another_hardware_does_not_count():
    line = [waiting(f"A{number}x") for number in range(4)]
    assert len(gang_of(line, Sharing(most=4, free_bytes={"local-gpu": 1}))) == 4


def test_one_job_needs_together_what_it_needs_alone():
    assert together_bytes([memory()]) == memory().total_bytes


def test_a_pass_is_no_wider_than_the_trainers_share_of_memory():
    jobs = [memory(available=100)] * 4
    assert together_bytes(jobs) == 105 + 4 * 20 + 25


@given(st.lists(st.builds(memory, own=st.integers(0, 50), one_pass=st.integers(1, 50)), min_size=1, max_size=8))
def test_together_needs_less_than_apart_and_no_less_than_any_alone(jobs):
    needed = together_bytes(jobs)
    assert max(job.total_bytes for job in jobs) <= needed <= sum(job.total_bytes for job in jobs)


@given(st.lists(st.sampled_from(["A1x", "B1x", "C1x", "A1y", "B1y", "A1-"]), min_size=1, max_size=12), st.booleans())
def test_whatever_the_line_nobody_is_overtaken_by_another_tenant_without_a_slot_of_its_own(jobs, across):
    line = [waiting(job) for job in jobs]
    together = gang_of(line, Sharing(most=4, across_tenants=across))
    places = [next(place for place, job in enumerate(line) if job is member) for member in together]
    assert places[0] == 0
    assert places == sorted(places)
    for member, place in zip(together, places, strict=True):
        left = [job for index, job in enumerate(line[:place]) if index not in places]
        assert all(job.tenant_id == member.tenant_id for job in left)


@pytest.mark.parametrize(
    ("ages", "waits"),
    [
        ([0.1], True),
        ([0.4], False),
        ([1.0, 0.1], True),  # more keep coming
        ([1.6, 0.1], False),  # long enough
        ([-5.0], False),  # clocks that disagree
        ([0.1] * 4, False),  # full
    ],
)
def test_a_new_job_is_held_for_a_moment_in_case_it_is_the_first_of_many(ages, waits):
    gang = [waiting(f"A{number}x", age_s=age) for number, age in enumerate(ages)]
    assert gathers(gang, NOON, Sharing(most=4, gather_s=0.3)) == waits


def test_a_job_that_shares_with_nobody_is_not_held():
    assert not gathers([waiting("A1-", age_s=0)], NOON, Sharing(most=4, gather_s=0.3))
    assert not gathers([waiting("A1x", age_s=0)], NOON, Sharing(most=1, gather_s=0.3))
