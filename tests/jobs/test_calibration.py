"""Earlier jobs correct the next estimate: by medians, within bounds, and never on the word of one or two."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.billing.types import Price
from luthier.jobs import calibration
from luthier.jobs.calibration import Past, applied, correction_of
from luthier.jobs.types import Estimate, FitTest, MemoryEstimate, Taken

MEMORY = dict.fromkeys(
    ("base_bytes", "adapter_bytes", "optimizer_bytes", "activation_bytes", "logits_bytes", "runtime_bytes"), 100
)
AT = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = Price(hardware="local-cpu", kind="cpu", hourly_usd="3.60", assumed_flops=1e9, valid_from=AT)
ratios = st.lists(st.floats(0.01, 100), max_size=40)


def estimate(seconds: int = 100, memory: int = 600, **more) -> Estimate:
    counts = {"rows": 1, "tokens_per_epoch": 1, "tokens": 1, "epochs": 1.0, "steps": 1, "batch_size": 1}
    return Estimate(
        **counts,
        tokens_per_second=1.0,
        seconds=seconds,
        basis=more.pop("basis", "assumed"),
        basis_note="",
        hardware="local-cpu",
        hourly_usd="3.60",
        cost_usd="0.10",
        memory=MemoryEstimate(**MEMORY, total_bytes=memory, available_bytes=more.pop("available", 1000)),
        fits=True,
        **more,
    )


def past(time: float = 1.0, memory: float = 1.0, **more) -> Past:
    return Past(estimate(**more), Taken(seconds=100 * time, memory_bytes=max(1, round(600 * memory))))


@given(ratios, ratios)
def test_a_correction_stays_within_its_bounds(times, memories):
    found = correction_of([past(*pair) for pair in zip(times, memories, strict=False)])
    assert 0.8 <= found.memory <= 2.0
    assert 0.2 <= found.assumed_time <= 8.0
    assert found.measured_time == 1.0  # the speed of none of them was measured


@given(st.lists(st.floats(0.01, 100), max_size=2))
def test_fewer_than_three_jobs_correct_nothing(times):
    found = correction_of([past(time, time) for time in times])
    assert (found.jobs, found.memory, found.assumed_time) == (0, 1.0, 1.0)


@given(st.integers(3, 15), st.floats(0.3, 5), st.floats(0.85, 1.9))
def test_jobs_that_agree_are_met_by_the_next_estimate(jobs, time, memory):
    made = applied(estimate(), correction_of([past(time, memory)] * jobs), PRICE)
    assert made.seconds == pytest.approx(100 * time, abs=1)
    assert made.memory.total_bytes == pytest.approx(600 * memory, abs=2)
    assert made.calibrated_by == jobs
    assert made.uncalibrated == Taken(seconds=100, memory_bytes=600)


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=15), st.floats(0.001, 1000))
def test_one_job_that_went_wrong_moves_it_no_further_than_its_neighbours(times, odd):
    calm = [past(time) for time in times]
    moved = correction_of([past(odd), *calm[1:]]).assumed_time
    assert min(times) <= moved <= max(times)


@given(st.lists(st.floats(0.5, 2), min_size=3, max_size=15))
def test_corrections_do_not_pile_up(times):
    """A job whose estimate was corrected tells how far off the formula was, not the correction."""
    once = correction_of([past(time) for time in times])
    corrected = [Past(applied(estimate(), once, PRICE), past(time).took) for time in times]
    assert correction_of(corrected).assumed_time == pytest.approx(once.assumed_time)


def test_older_jobs_than_the_latest_fifteen_do_not_count():
    assert correction_of([past(2.0)] * 15 + [past(0.5)] * 30).assumed_time == 2.0


def test_a_guess_and_a_measured_speed_are_off_in_their_own_ways():
    found = correction_of([past(4.0), past(1.0, basis="measured")] * 3)
    assert (found.assumed_time, found.measured_time) == (4.0, 1.0)


def test_how_far_off_earlier_estimates_were_is_told():
    told = correction_of([past(1.0, 1.0), past(2.0, 1.1), past(0.5, 1.0)]).error
    assert (told.jobs, told.seconds_median, told.seconds_worst) == (3, 1.0, 1.0)
    assert (told.memory_median, told.memory_worst) == (0.0, 0.1)
    assert correction_of([]).error is None


def test_memory_that_a_correction_takes_beyond_the_machine_does_not_fit():
    assert applied(estimate(memory=600, available=1000), correction_of([past(1.0, 1.9)] * 3), PRICE).fits is False


@pytest.mark.parametrize(("fits", "measured"), [(True, 700), (False, None)])
def test_what_a_fit_test_measured_counts_more_than_any_formula(fits, measured):
    test = FitTest(job_id="job_1", fits=fits, memory_bytes=measured)
    made = applied(estimate(), correction_of([past(1.0, 1.5)] * 3), PRICE, test)
    assert (made.fits, made.fit_test) == (fits, test)
    assert made.memory.total_bytes == (measured or 900)
    parts = made.memory.model_dump(exclude={"total_bytes", "available_bytes"})
    assert sum(parts.values()) == made.memory.total_bytes


def test_an_estimate_of_an_older_version_is_read():
    old = json.loads(estimate().model_dump_json())
    for name in ("calibrated_by", "earlier_error", "fit_test", "uncalibrated", "measured"):
        del old[name]
    assert Past(Estimate.model_validate_json(json.dumps(old)), Taken(seconds=1)).formula.seconds == 100


def test_three_jobs_of_the_platform_correct_a_fourth(bench, fake, alice):
    bench.trainer.attempts = [fake.succeeds()]
    before = bench.jobs.estimate(alice, bench.spec())
    assert (before.calibrated_by, before.earlier_error) == (0, None)
    for _ in range(3):
        job = bench.submit()
        bench.settle()
    assert bench.get(job).state == "succeeded"
    measured = bench.jobs.submitted_estimate(alice, job.id).measured
    assert measured is not None
    after = bench.jobs.estimate(alice, bench.spec())
    assert (after.calibrated_by, after.earlier_error.jobs) == (3, 3)
    assert after.uncalibrated is not None


def test_a_fit_test_is_used_by_the_next_estimate_of_the_same_run_alone(bench, fake, alice):
    def act(run, here) -> int:
        here.storage.write(here.name("results", "fit_test.json"), b"{}")
        status = fake.running(here, 0, peak_memory_bytes=321_000_000, tokens_per_second=77.0)
        here.write_status(status.model_copy(update={"state": "succeeded"}))
        return 0

    bench.trainer.attempts = [act]
    job = bench.submit(kind="fit_test").id
    bench.settle()
    found = bench.jobs.estimate(alice, bench.spec())
    assert (found.memory.total_bytes, found.tokens_per_second) == (321_000_000, 77.0)
    assert found.fit_test == FitTest(job_id=job, fits=True, memory_bytes=321_000_000, tokens_per_second=77.0)
    assert "fit test" in found.basis_note
    assert bench.jobs.estimate(alice, bench.spec(train={"max_seq_len": 128})).fit_test is None
    assert calibration.same_run(bench.spec(), bench.spec(kind="fit_test", name="other"))
