"""The state machine and what the end of an attempt means: pure decisions, all of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.jobs import rules, store
from luthier.jobs.asking import Asking
from luthier.jobs.directory import AttemptStatus, Failure
from luthier.jobs.rules import TRANSITIONS, Attempt, may, outcome
from luthier.jobs.types import FINISHED, JobState
from luthier.jobs.watching import Process

STATES = list(JobState)
WORDS = ["starting", "running", "saving", "succeeded", "failed", "stopped", "preempted", None]


def ended(word=None, *, exit_status=None, wish=None, crashes=0, code="crashed") -> Attempt:
    failure = Failure(code=code, message="It broke.", hint="Mend it.") if word == "failed" else None
    status = None if word is None else AttemptStatus(attempt=1, state=word, failure=failure)
    return Attempt(status=status, exit_status=exit_status, wish=wish, crashes=crashes, max_attempts=4)


def test_every_state_has_its_steps_and_only_two_are_final():
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state in JobState if not TRANSITIONS[state]} == {JobState.SUCCEEDED, JobState.CANCELLED}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_the_table_takes_the_legal_steps_and_no_other(bench, alice, before, after):
    job = bench.submit()
    with bench.database.write("*") as session:
        row = store.get(session, job.id)
        row.state = before
        session.flush()
        step = store.Step(after, bench.times.now(), "a test")
        if may(before, after):
            assert store.move(session, row, step)
            assert row.state == after
            assert (row.finished_at is not None) == (after in FINISHED)
        else:
            with pytest.raises(ValueError, match="does not go"):
                store.move(session, row, step)
            assert row.state == before
    recorded = bench.jobs.transitions(alice, job.id)
    assert [(step.from_state, step.to_state) for step in recorded[1:]] == ([(before, after)] if may(before, after) else [])


@given(
    st.sampled_from(WORDS),
    st.sampled_from([None, 0, 1, 75, 78, -9, -15]),
    st.sampled_from([None, *rules.WISHES]),
    st.integers(0, 5),
)
def test_whatever_an_attempt_ends_with_its_job_can_go_there(word, exit_status, wish, crashes):
    result = outcome(ended(word, exit_status=exit_status, wish=wish, crashes=crashes))
    assert may(JobState.RUNNING, result.state)
    # What a budget stops can be resumed, but not before somebody has read why.
    capped = result.state == JobState.STOPPED and wish == "cap"
    assert (result.failure is not None) == (result.state == JobState.FAILED or capped)
    assert result.delay_s == 0 or result.crashed


@pytest.mark.parametrize(
    ("attempt", "state"),
    [
        (ended("succeeded", wish="stop"), "succeeded"),
        (ended("succeeded", wish="cancel"), "cancelled"),
        (ended("stopped"), "stopped"),
        (ended("preempted"), "queued"),
        (ended("preempted", wish="stop"), "stopped"),
        (ended("running", exit_status=-9), "queued"),
        (ended("running", exit_status=-9, wish="stop"), "stopped"),
        (ended("running", exit_status=-9, crashes=3), "failed"),
        (ended("failed", code="bad_data", wish="stop"), "failed"),
        (ended("failed", code="device"), "queued"),
        (ended("stopped", wish="budget"), "failed"),
    ],
)
def test_what_the_end_of_an_attempt_means(attempt, state):
    assert outcome(attempt).state == state


@pytest.mark.parametrize("wish", ["cap", "budget", "time"])
@pytest.mark.parametrize(
    ("step", "says"), [(None, "before this attempt saved a checkpoint."), (40, "; its last checkpoint is of step 40.")]
)
def test_a_job_that_money_or_time_ends_claims_no_checkpoint_that_there_is_not(wish, step, says):
    status = AttemptStatus(attempt=1, state="stopped", last_checkpoint_step=step)
    assert outcome(Attempt(status, 0, wish, crashes=0, max_attempts=4)).failure.message.endswith(says)


@pytest.mark.parametrize(
    ("micro_usd", "ms", "limits", "wish"),
    [
        (999, 0, (1000, None), None),
        (1000, 0, (1000, None), "budget"),
        (0, 0, (0, None), None),
        (0, 9_999, (None, 10), None),
        (0, 10_000, (None, 10), "time"),
    ],
)
def test_a_limit_is_reached_when_it_is_used_up(micro_usd, ms, limits, wish):
    assert rules.over_limit(micro_usd, ms, max_micro_usd=limits[0], max_seconds=limits[1]) == wish


def test_a_trainer_is_asked_then_signalled_then_killed():
    asking = Asking()
    said = [asking.next("stop", last_word=False, alone=True, now_s=second) for second in (0, 5, 16, 74, 76)]
    assert said == ["ask", "wait", "terminate", "terminate", "kill"]


def test_a_process_is_signalled_once():
    process = Process(None, "1:1")
    assert [process.once(), process.once()] == [True, False]


@pytest.mark.parametrize("wish", rules.WISHES)
def test_a_member_of_a_gang_is_asked_and_left_behind_but_never_killed(wish):
    asking = Asking()
    said = [asking.next(wish, last_word=False, alone=False, now_s=second) for second in (0, 16, 76, 300, 301)]
    assert said == ["ask", "wait", "wait", "wait", "release"]


def test_a_trainer_that_has_said_its_last_word_gets_time_to_leave():
    asking = Asking()
    said = [asking.next(None, last_word=True, alone=True, now_s=second) for second in (0, 20, 21)]
    assert said == ["wait", "wait", "kill"]
