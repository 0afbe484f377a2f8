"""Jobs that wait for an admin, and jobs that a budget stops, over a real queue and supervisor."""

from datetime import timedelta

import pytest

from luthier.accounts.types import Actor, Role
from luthier.billing import rules as money
from luthier.errors import Forbidden, WrongState
from luthier.jobs.approvals import ApprovalRule, Approvals, Unstarted
from luthier.jobs.types import JobState

ALICE = Actor("team_alice", "user_alice", Role.ADMIN)


@pytest.fixture
def costly(bench):
    """A job that waits: an hour of this machine costs a fortune."""
    bench.billing.set_price("local-cpu", "90000.00")
    return bench.submit()


def test_nobody_runs_a_job_that_waits_for_approval(bench, costly):
    assert costly.state == JobState.AWAITING_APPROVAL
    bench.supervisor.tick()
    assert bench.executor.started == []
    assert bench.jobs.approvals.approve(ALICE, costly.id).state == JobState.QUEUED
    bench.supervisor.tick()
    assert len(bench.executor.started) == 1


def test_what_nobody_approves_in_a_week_ends_and_gives_back_its_money(bench, costly):
    bench.times.pass_s(timedelta(days=7).total_seconds() - 60)
    bench.queue.expire()
    assert bench.jobs.get(ALICE, costly.id).state == JobState.AWAITING_APPROVAL
    bench.times.pass_s(120)
    bench.queue.expire()
    assert bench.jobs.get(ALICE, costly.id).state == JobState.CANCELLED
    assert bench.billing.usage(ALICE).held_usd == "0.00"
    with pytest.raises(WrongState):
        bench.jobs.approvals.approve(ALICE, costly.id)


def test_where_a_second_person_is_asked_for_nobody_approves_their_own(bench, costly):
    unstarted = Unstarted(bench.billing, (bench.datasets, bench.models))
    rule = ApprovalRule(second_person=True)
    strict = Approvals(bench.database, bench.storage, unstarted, rule, bench.times.now)
    with pytest.raises(Forbidden):
        strict.approve(ALICE, costly.id)
    assert strict.reject(ALICE, costly.id, "too dear").state == JobState.CANCELLED


def test_p9_a_running_job_whose_budget_is_used_up_saves_and_stops(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.billing.set_price("local-cpu", "0.36")  # 100 micro-dollars a second
    job = bench.submit()
    limit = money.micro_usd(job.estimated_cost_usd)
    bench.billing.budgets.set(ALICE, limit)
    bench.supervisor.tick()
    bench.until_started(job)
    for _ in range(200):
        if bench.get(job).finished:
            break
        bench.times.pass_s(10)
        bench.supervisor.tick()
        if money.micro_usd(bench.get(job).cost_usd) >= limit:  # the tick after this one tells the trainer
            bench.supervisor.tick()
            bench.until_last_word(job)
    ended = bench.jobs.get(ALICE, job.id)
    assert (ended.state, ended.error.code) == (JobState.STOPPED, "budget")
    assert limit <= money.micro_usd(ended.cost_usd) <= limit + 40 * 100
    assert [each.step for each in bench.jobs.checkpoints(ALICE, job.id)]


def test_the_cost_of_a_running_job_is_never_older_than_15_seconds(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.billing.set_price("local-cpu", "0.36")
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    began, costs = bench.times.steady, []
    for _ in range(60):
        bench.times.pass_s(1.7)
        bench.supervisor.tick()
        cost = bench.billing.job_cost(ALICE, job.id)
        costs.append(money.micro_usd(cost.cost_usd))
        assert bench.times.steady - began - 15 <= cost.elapsed_seconds <= bench.times.steady - began
        assert costs[-1] == round(cost.elapsed_seconds * 1000) // 10
    assert len(set(costs)) >= 6


def test_a_price_that_changes_between_the_claim_and_the_first_heartbeat_counts_for_the_next_job(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.billing.set_price("local-cpu", "3.60")  # 1,000 micro-dollars a second
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.times.wall -= timedelta(hours=1)  # the order of events counts, not what the clock says
    bench.billing.set_price("local-cpu", "36.00")
    for _ in range(3):
        bench.times.pass_s(10)
        bench.supervisor.tick()
    cost = bench.billing.job_cost(ALICE, job.id)
    assert cost.elapsed_seconds >= 20
    assert money.micro_usd(cost.cost_usd) == round(cost.elapsed_seconds * 1000)


def test_a_resumed_job_is_held_for_what_is_left_of_it_at_the_price_of_now(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    bench.billing.set_price("local-cpu", "0.36")
    job = bench.submit()
    estimate = bench.jobs.submitted_estimate(ALICE, job.id)
    bench.supervisor.tick()
    bench.until_started(job)
    bench.jobs.pause(ALICE, job.id)
    while not bench.get(job).finished:
        bench.times.pass_s(10)
        bench.supervisor.tick()
    bench.billing.set_price("local-cpu", "3600.00")  # a dollar a second
    bench.jobs.resume(ALICE, job.id)
    paused = bench.get(job)
    left = -(-estimate.seconds * (paused.total_steps - paused.step) // paused.total_steps)
    assert 0 < paused.step < paused.total_steps
    assert bench.billing.job_cost(ALICE, job.id).held_usd == f"{left}.00"
