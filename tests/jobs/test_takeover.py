"""Supervisors die, freeze and race: each job has one owner, each second is billed once, nothing is reaped by mistake."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from luthier.billing.rules import micro_usd
from luthier.errors import DatabaseBusy, WrongState
from luthier.jobs.queue import Ending, Fenced, JobQueue, Report
from luthier.jobs.reaping import Beat, Stillness
from luthier.jobs.rules import Outcome
from luthier.jobs.sharing import ALONE
from luthier.jobs.types import JobState, Line

HARDWARE = {"local-cpu"}


@pytest.mark.parametrize(
    "point", ["after_claim", "before_launched", "before_settle", "after_settle", "before_finish", "after_finish"]
)
def test_a_supervisor_that_dies_between_any_two_steps_loses_and_doubles_nothing(bench, killed, alice, point):
    bench.billing.set_price("local-cpu", "3.60")  # 1,000 micro-dollars a second
    job = bench.submit()
    bench.queue.breaks_at = point
    with pytest.raises(killed):
        tick_on(bench)
    bench.kill_supervisor()
    bench.settle()
    done = bench.get(job)
    used = bench.billing.job_cost(alice, job.id)
    assert (done.state, done.model_id) == ("succeeded", "model_1")
    assert len(bench.registry.models) == 1
    assert used.settled
    assert micro_usd(used.cost_usd) == round(used.elapsed_seconds * 1000)  # I5: the ledger is segments x price
    assert sum(micro_usd(amount) for _, amount in bench.ledger()) == micro_usd(used.cost_usd)
    assert done.cost_usd == used.cost_usd
    assert done.attempt == (2 if point == "after_claim" else 1)  # what was trained is not trained again
    if point in {"after_settle", "before_finish", "after_finish"}:
        assert used.elapsed_seconds == 7  # earlier, and the time since the last beat is a gift


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_supervisor_that_dies_while_the_model_is_registered_registers_it_once(bench, killed, moment):
    job = bench.submit()
    setattr(bench.registry, moment, killed("register"))
    with pytest.raises(killed):
        tick_on(bench)
    bench.kill_supervisor()
    bench.settle()
    assert (bench.get(job).state, bench.get(job).attempt) == ("succeeded", 1)
    assert len(bench.registry.models) == 1


def test_after_kill_9_the_next_supervisor_goes_on_at_once_from_the_last_checkpoint(bench, fake):
    bench.trainer.attempts = [fake.runs(checkpoint=33), fake.succeeds()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.kill_supervisor()
    began = bench.times.steady
    bench.supervisor.tick()
    bench.executor.join()
    bench.settle(seconds=1)
    assert bench.times.steady - began < 5
    assert bench.trainer.resumed == [None, 33]
    assert bench.get(job).state == "succeeded"


def test_the_queue_survives_a_restart(bench):
    jobs = [bench.submit() for _ in range(3)]
    bench.supervisor.close()
    bench._supervisor = None
    bench.settle()
    assert [finished.job_id for finished in bench.registry.finished] == [job.id for job in jobs]


def test_many_supervisors_that_claim_at_once_share_the_jobs_out(bench):
    jobs = [bench.submit() for _ in range(8)]
    claimed = []

    def claim(owner: str) -> None:
        while held := bench.queue.claim(owner, Line(HARDWARE)):
            claimed.extend(each.fence for each in held)

    in_threads(claim, [f"host/sup_{number}" for number in range(4)])
    assert sorted(fence.job_id for fence in claimed) == [job.id for job in jobs]
    assert {fence.attempt for fence in claimed} == {1}


def test_whoever_was_replaced_writes_nothing(bench):
    job = bench.submit()
    (old,) = bench.queue.claim("host/old", Line(HARDWARE))
    new = bench.queue.adopt(bench.queue.running()[0].beat, "host/new")
    assert new is not None
    done = Ending(Outcome(JobState.FAILED, "late"))
    for write in (
        lambda: bench.queue.launched([old.fence], "1:1"),
        lambda: bench.queue.settle(old.fence, ()),
        lambda: bench.queue.finish(old.fence, done),
        lambda: bench.queue.want(old.fence, "budget"),
    ):
        with pytest.raises(Fenced):
            write()
    assert bench.queue.report([Report(old.fence, (), None)]) == {}
    assert bench.queue.wishes([old.fence]) == {}
    assert bench.get(job).state == "starting"


def test_a_fenced_supervisor_ends_its_trainer_and_bills_nothing_more(bench, fake, alice):
    bench.billing.set_price("local-cpu", "3.60")
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.until_started(job)
    bench.times.pass_s(10)
    bench.supervisor.tick()
    billed = bench.billing.job_cost(alice, job.id).cost_usd
    assert bench.queue.adopt(bench.queue.running()[0].beat, "elsewhere/new") is not None
    bench.times.pass_s(100)
    bench.supervisor.tick()
    assert bench.supervisor.running == []
    assert bench.executor.poll("thread-1") == -9
    assert bench.billing.job_cost(alice, job.id).cost_usd == billed == "0.01"


def test_a_frozen_supervisor_is_replaced_after_30_seconds_and_gives_up_when_it_thaws(bench, fake):
    bench.trainer.attempts = [fake.runs(), fake.succeeds()]
    job = bench.submit()
    frozen = bench.supervisor
    frozen.tick()
    bench.until_started(job)
    frozen.tick()
    other = bench.another()
    for _ in range(6):
        other.tick()
        assert bench.get(job).attempt == 1
        bench.times.pass_s(5)
    other.tick()  # stands still for 30 s: its trainer is asked to save
    bench.executor.join()
    bench.times.pass_s(5)
    other.tick()
    bench.executor.join()
    other.tick()
    frozen.tick()
    assert frozen.running == []
    assert bench.get(job).state == "succeeded"
    assert bench.get(job).attempt == 2


def test_a_live_supervisor_is_not_replaced(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    other = bench.another()
    bench.supervisor.tick()
    bench.until_started(job)
    for _ in range(60):
        bench.times.pass_s(5)
        bench.supervisor.tick()
        other.tick()
    assert bench.get(job).attempt == 1
    assert bench.supervisor.running == [job.id]


class Outage(JobQueue):
    """A database that does not answer for a while."""

    away = False

    def _answer(self) -> None:
        if self.away:
            raise DatabaseBusy

    def claim(self, owner, line, allowed=ALONE):
        self._answer()
        return super().claim(owner, line, allowed)

    def report(self, reports):
        self._answer()
        return super().report(reports)

    def wishes(self, fences):
        self._answer()
        return super().wishes(fences)

    def running(self):
        self._answer()
        return super().running()


def test_an_outage_of_the_database_costs_no_step_and_nobody_is_reaped_when_it_returns(bench, fake):
    bench.queue = Outage(bench.database, bench.storage, bench.billing, bench.datasets, bench.times.now)
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    other = bench.another()
    bench.supervisor.tick()
    bench.until_started(job)
    other.tick()
    bench.queue.away = True
    for _ in range(60):
        bench.times.pass_s(5)
        other.tick()
        bench.supervisor.tick()
    bench.queue.away = False
    other.tick()  # looks first: the other one has not had the chance to beat yet
    bench.supervisor.tick()
    other.tick()
    assert bench.get(job).attempt == 1
    assert bench.executor.poll("thread-1") is None


@pytest.mark.parametrize("hours", [-1, 1, 24])
def test_a_step_of_the_wall_clock_reaps_nobody_and_moves_no_money(bench, fake, alice, hours):
    bench.billing.set_price("local-cpu", "3.60")
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit()
    other = bench.another()
    bench.supervisor.tick()
    bench.until_started(job)
    for _ in range(10):
        bench.times.pass_s(5)
        bench.supervisor.tick()
        other.tick()
    bench.times.wall += timedelta(hours=hours)
    for _ in range(10):
        bench.times.pass_s(5)
        bench.supervisor.tick()
        other.tick()
    assert bench.get(job).attempt == 1
    assert bench.billing.job_cost(alice, job.id).cost_usd == "0.10"  # 100 s


def test_a_backoff_ends_although_the_clock_was_put_back(bench, fake):
    bench.trainer.attempts = [fake.fails("crashed"), fake.succeeds()]
    job = bench.submit()
    bench.supervisor.tick()
    bench.executor.join()
    bench.supervisor.tick()
    bench.times.wall -= timedelta(hours=1)
    bench.settle()
    assert bench.get(job).state == "succeeded"


def test_a_price_change_between_two_attempts_charges_each_at_its_own(bench, fake, alice):
    bench.billing.set_price("local-cpu", "3.60")
    bench.trainer.attempts = [fake.runs(), fake.runs()]
    job = bench.submit()
    for price in ("3.60", "7.20"):
        bench.billing.set_price("local-cpu", price)
        bench.supervisor.tick()
        bench.until_started(job)
        bench.times.pass_s(10)
        bench.supervisor.tick()
        bench.jobs.stop(alice, job.id)
        bench.settle()
        if price == "3.60":
            bench.jobs.resume(alice, job.id)
    assert bench.ledger() == [(1, "0.01"), (2, "0.02")]
    assert bench.get(job).cost_usd == "0.03"


def test_a_job_over_its_own_budget_saves_and_fails_with_the_reason(bench, fake, alice):
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit(limits={"max_cost_usd": "1.00"})  # free when it was submitted
    bench.billing.set_price("local-cpu", "360.00")  # 10 cents a second
    bench.supervisor.tick()
    bench.until_started(job)
    for _ in range(4):
        bench.times.pass_s(5)
        bench.supervisor.tick()
        bench.executor.join() if bench.here(job).control().want == "stop" else None
    bench.settle()
    failed = bench.get(job)
    assert (failed.state, failed.error.code) == ("failed", "budget")
    assert float(failed.cost_usd) <= 1 + 0.1 * 40  # P9: 40 s of overspend at most
    assert bench.storage.size(bench.here(job).attempt(1).name("checkpoints", "step-00000010", "COMPLETE.json"))
    with pytest.raises(WrongState, match="has reached its own `limits`"):
        bench.jobs.resume(alice, job.id)


def test_a_job_over_its_own_time_ends_in_the_same_way(bench, fake):
    bench.trainer.attempts = [fake.runs()]
    job = bench.submit(limits={"max_seconds": 15})
    bench.supervisor.tick()
    bench.until_started(job)
    for _ in range(2):
        bench.times.pass_s(10)
        bench.supervisor.tick()
    bench.settle()
    assert bench.get(job).error.code == "budget"
    assert "limits.max_seconds" in bench.get(job).error.message


def test_a_trainer_that_does_not_react_is_signalled_and_then_killed(bench, fake, alice):
    deaf = threading.Event()
    bench.trainer.attempts = [
        lambda run, here: (here.write_status(fake.running(here)), run.stopping.wait(30), deaf.wait(0))[0] or -9
    ]
    job = bench.submit()
    bench.supervisor.tick()
    bench.jobs.stop(alice, job.id)
    bench.supervisor.tick()
    assert bench.executor.poll("thread-1") is None
    bench.times.pass_s(16)
    bench.supervisor.tick()
    bench.executor.join()
    bench.settle()
    assert bench.get(job).state == "stopped"


def test_a_heartbeat_must_stand_still_for_the_reapers_whole_time():
    beat = Beat("job", 1, "host/sup", 7)
    stillness = Stillness(30, 10)
    assert [stillness.look([beat], second) for second in (0, 10, 20, 29)] == [set()] * 4
    assert stillness.look([beat], 30) == {"job"}
    assert stillness.look([replace(beat, beat_seq=8)], 31) == set()


def test_a_pause_of_the_reaper_itself_counts_for_little():
    beat = Beat("job", 1, "host/sup", 7)
    stillness = Stillness(30, 10)
    assert [stillness.look([beat], second) for second in (0, 1000, 2000)] == [set()] * 3


def tick_on(bench) -> None:
    for _ in range(3):
        bench.supervisor.tick()
        bench.executor.join()
        bench.times.pass_s(7)


def in_threads(action, arguments) -> None:
    threads = [threading.Thread(target=action, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
