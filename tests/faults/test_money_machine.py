"""Jobs and their money under everything that may happen, in any order, beside a small model (I1 to I5 after each step)."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from luthier.accounts.types import Idempotency
from luthier.billing.types import Refund, Segment
from luthier.datasets.types import Upload
from luthier.errors import FieldInvalid
from luthier.jobs import rules
from luthier.jobs.directory import AttemptStatus, Failure
from luthier.jobs.metering import Meter, ProcessTime
from luthier.jobs.queue import Ending, Fenced, Held, JobQueue, Report
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Line
from luthier.server.first import first_start
from luthier.settings import Settings
from luthier.values import micro_usd, usd
from luthier.wiring import build

from . import books

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEGAN = datetime(2028, 2, 28, 22, 30, tzinfo=UTC)
"""A leap year, so that the first month's end comes after the 29th."""
PRICES = {"local-cpu": 750_000, "local-gpu": 10_000_000}
HOUR_MS = 3_600_000
LONGEST_PAUSE_S = 7200
KEEPS_KEYS = timedelta(hours=47)


@dataclass
class Slice:
    """Usage at one price: the one that was in force when the platform first heard of it."""

    ms: int = 0
    price: int = 0


@dataclass
class Expected:
    """What the model knows of one job."""

    hardware: str
    path: list[str] = field(default_factory=lambda: ["queued"])
    slices: list[Slice] = field(default_factory=list)
    wish: str | None = None
    crashes: int = 0
    booked: int = 0
    """What stands in the ledger, refunds not counted."""
    refunded: int = 0
    held: int = 0
    """What it may cost, all in all, by what was set aside when it was queued last."""
    settled: bool = False

    @property
    def state(self) -> str:
        return self.path[-1]

    @property
    def charge(self) -> int:
        return sum(each.price * each.ms for each in self.slices) // HOUR_MS

    @property
    def left(self) -> int:
        """What is still set aside: nothing once it was settled, or has used it up."""
        return 0 if self.settled else max(0, self.held - self.charge)


@dataclass
class Run:
    """A supervisor's work on one job, and how much of it the model counts. A fenced one does not know it yet."""

    held: Held
    time: ProcessTime
    meter: Meter | None
    looked_at: int
    slices: list[Slice] = field(default_factory=lambda: [Slice()])
    told: dict[int, Slice] = field(default_factory=dict)
    """As of the last time that the platform took it, by the number of the segment."""
    fenced: bool = False

    @property
    def job_id(self) -> str:
        return self.held.fence.job_id

    def advance(self, steady_ms: int, now: datetime) -> None:
        if self.meter is None:
            return
        self.time.advance(steady_ms / 1000)
        self.time.divide(now)
        self.slices[-1].ms += steady_ms - self.looked_at
        self.looked_at = steady_ms
        if self.slices[-1].ms >= HOUR_MS:
            self.slices.append(Slice())

    @property
    def segments(self) -> tuple[Segment, ...]:
        return () if self.meter is None else self.meter.segments


class Money(RuleBasedStateMachine):
    """One team, two kinds of hardware, supervisors that beat, freeze and are fenced, and a clock that is stepped."""

    template: Path
    dataset: str
    steps_seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="money-"))
        shutil.copytree(self.template, self.folder, dirs_exist_ok=True)
        self.wall, self.steady_ms, self.latest = BEGAN, 1_000_000, BEGAN
        self.stepped = False
        self.platform = build(Settings(data=self.folder), now=lambda: self.wall)
        self.actor = self.platform.accounts.authenticate((self.folder / "admin.key").read_text("utf-8").strip())
        used = (self.platform.datasets, self.platform.registry)
        self.queue = JobQueue(self.platform.database, self.platform.storage, self.platform.billing, used, self.platform.now)
        self.prices = dict(PRICES)
        self.jobs: dict[str, Expected] = {}
        self.keys: dict[str, tuple[str, datetime]] = {}
        self.runs: list[Run] = []
        self.refunds = 0
        self.owners = 0

    def teardown(self) -> None:
        self.platform.close()
        shutil.rmtree(self.folder)

    # -- users -------------------------------------------------------------------------------------------------------

    @rule(hardware=st.sampled_from(sorted(PRICES)))
    def submit(self, hardware: str) -> None:
        key = f"key-{len(self.keys)}"
        job_id, replayed = self._submit(key, hardware)
        assert not replayed
        self.jobs[job_id] = Expected(hardware, held=self._estimated(job_id))
        self.keys[key] = job_id, self.wall

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def submit_again(self, data) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys)))
        job_id, at = self.keys[key]
        if self.latest - at < KEEPS_KEYS:
            assert self._submit(key, self.jobs[job_id].hardware) == (job_id, True)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), wish=st.sampled_from(["stop", "cancel"]))
    def end(self, data, wish: str) -> None:
        job_id, job = self._draw(data)
        (self.platform.jobs.stop if wish == "stop" else self.platform.jobs.cancel)(self.actor, job_id)
        if job.state == "queued":
            job.path.append("stopped" if wish == "stop" else "cancelled")
            job.booked, job.settled = job.charge, True
        elif job.state in books.OWNED:
            job.wish = "cancel" if job.wish == "cancel" else wish

    @precondition(lambda self: any(job.state in ("stopped", "failed") for job in self.jobs.values()))
    @rule(data=st.data())
    def resume(self, data) -> None:
        job_id, job = self._draw(data, "stopped", "failed")
        self.platform.jobs.resume(self.actor, job_id)
        job.path.append("queued")
        job.wish, job.crashes = None, 0
        held = micro_usd(self.platform.billing.job_cost(self.actor, job_id).held_usd)  # for the rest, at the price of today
        job.held, job.settled = job.charge + held, False

    @rule(hardware=st.sampled_from(sorted(PRICES)), cents=st.integers(0, 5000))
    def change_price(self, hardware: str, cents: int) -> None:
        self.platform.billing.set_price(hardware, f"{cents / 100:.2f}")
        self.prices[hardware] = cents * 10_000

    @precondition(lambda self: any(job.booked for job in self.jobs.values()))
    @rule(data=st.data(), share=st.integers(1, 150), again=st.booleans())
    def refund(self, data, share: int, again: bool) -> None:
        job_id = data.draw(st.sampled_from([key for key, job in self.jobs.items() if job.booked]))
        job = self.jobs[job_id]
        self.refunds += 1
        amount = max(1, job.booked * share // 100)
        wanted = Refund(job_id=job_id, micro_usd=amount, reason="It was slow.", key=f"refund-{self.refunds}")
        if amount > job.booked - job.refunded:
            with pytest.raises(FieldInvalid):
                self.platform.billing.refund(wanted)
            return
        for _ in range(2 if again else 1):
            self.platform.billing.refund(wanted)
        job.refunded += amount

    # -- time --------------------------------------------------------------------------------------------------------

    @rule(ms=st.integers(1, 3_000_000))
    def time_passes(self, ms: int) -> None:
        self._pass(ms)

    @rule()
    def month_ends(self) -> None:
        """Nearly: what runs reaches over it. Long silences are not counted, so it looks up before and after."""
        self._advance_all()
        ahead = (self.wall.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        self.wall = ahead - timedelta(seconds=7)
        self.latest = max(self.latest, self.wall)

    @rule(hours=st.sampled_from([-1, 1]))
    def clock_is_stepped(self, hours: int) -> None:
        self.wall += timedelta(hours=hours)
        self.latest = max(self.latest, self.wall)
        self.stepped = True

    # -- supervisors -------------------------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        self.owners += 1
        held = self.queue.claim(f"supervisor-{self.owners}", Line(tuple(PRICES)))
        queued = [job for job in self.jobs.values() if job.state == "queued"]
        if not held:
            assert all(job.crashes for job in queued)  # whoever crashed waits for a while
            return
        job = self.jobs[held[0].fence.job_id]
        assert job.state == "queued"
        job.path.append("starting")
        fence = held[0].fence
        first = Segment(self.actor.tenant_id, fence.job_id, fence.attempt, 0, job.hardware, self.wall, 0)
        run = Run(held[0], ProcessTime(self.steady_ms / 1000, LONGEST_PAUSE_S), Meter(first), self.steady_ms)
        run.time.join(run.meter)
        self._billed(run, (first,))  # nothing yet, at the price of now
        self.runs.append(run)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), trains=st.booleans())
    def beat(self, data, trains: bool) -> None:
        run = data.draw(st.sampled_from(self.runs))
        run.advance(self.steady_ms, self.wall)
        job, segments = self.jobs[run.job_id], run.segments
        status = AttemptStatus(attempt=run.held.fence.attempt, state="running" if trains else "starting")
        charges = self.queue.report([Report(run.held.fence, segments, status)])
        if run.fenced:
            assert charges == {}
            self.runs.remove(run)
            return
        self._billed(run, segments)
        assert charges == {run.job_id: job.charge}
        if run.meter is not None:
            run.meter.sent(segments)
        if trains and job.state == "starting":
            job.path.append("running")

    @precondition(lambda self: any(not run.fenced for run in self.runs))
    @rule(data=st.data())
    def freeze_and_fence(self, data) -> None:
        """Its supervisor stands still, and another takes the job over. What was not billed by then is a gift."""
        run = data.draw(st.sampled_from([run for run in self.runs if not run.fenced]))
        beats = [seen.beat for seen in self.queue.running() if seen.beat.job_id == run.job_id]
        self.owners += 1
        held = self.queue.adopt(beats[0], f"supervisor-{self.owners}")
        assert held is not None
        assert self.queue.adopt(beats[0], "too-late") is None
        run.fenced = True
        self.runs.append(Run(held, run.time, None, self.steady_ms))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), word=st.sampled_from(["succeeded", "stopped", "preempted", "failed", "crashed"]), settles=st.booleans())
    def attempt_ends(self, data, word: str, settles: bool) -> None:
        run = data.draw(st.sampled_from(self.runs))
        job, fence = self.jobs[run.job_id], run.held.fence
        run.advance(self.steady_ms, self.wall)
        self.runs.remove(run)
        outcome = rules.outcome(_ended(word, fence.attempt, job))
        segments = run.segments
        ending = Ending(outcome, segments)
        if run.fenced:
            for write in (lambda: self.queue.settle(fence, segments), lambda: self.queue.finish(fence, ending)):
                with pytest.raises(Fenced):
                    write()
            return
        self._billed(run, segments)
        if settles:  # as before a model is registered; and a crash between the two repeats it
            assert [self.queue.settle(fence, segments) for _ in range(2)] == [job.charge] * 2
            job.booked, job.settled = job.charge, True
        self.queue.finish(fence, ending)
        if outcome.state == "succeeded" and job.state == "starting":
            job.path.append("running")
        job.path.append(outcome.state)
        if outcome.state != "queued":
            job.booked, job.settled = job.charge, True
        job.wish = None
        job.crashes += outcome.crashed

    # -- after each step ---------------------------------------------------------------------------------------------

    @invariant()
    def the_books_are_in_order(self) -> None:
        with contextlib.closing(sqlite3.connect(self.folder / "luthier.db")) as connection:
            assert books.faults(connection, self.jobs, clock_stepped=self.stepped) == []
            assert connection.execute("SELECT count(*) FROM jobs").fetchone()[0] == len(self.jobs)
        type(self).steps_seen += 1

    @invariant()
    def the_platform_says_what_the_model_says(self) -> None:
        for job_id, expected in self.jobs.items():
            path = [step.to_state for step in self.platform.jobs.transitions(self.actor, job_id)]
            assert path == expected.path
            cost = self.platform.billing.job_cost(self.actor, job_id)
            assert (micro_usd(cost.cost_usd), micro_usd(cost.held_usd)) == (expected.charge, expected.left)
            assert sum(self._lines(job_id)) == expected.booked - expected.refunded
            assert round(cost.elapsed_seconds * 1000) == sum(each.ms for each in expected.slices)
        held = micro_usd(self.platform.billing.usage(self.actor).held_usd)
        assert held == sum(job.left for job in self.jobs.values())

    @invariant()
    def nobody_runs_twice(self) -> None:
        running = [run.job_id for run in self.runs if not run.fenced]
        assert len(running) == len(set(running))
        assert set(running) == {job_id for job_id, job in self.jobs.items() if job.state in books.OWNED}

    # -- inside ------------------------------------------------------------------------------------------------------

    def _submit(self, key: str, hardware: str) -> tuple[str, bool]:
        spec = RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": self.dataset, "hardware": hardware})
        submitted = self.platform.jobs.submit(self.actor, spec, Idempotency(key, hardware))
        return submitted.job.id, submitted.replayed

    def _estimated(self, job_id: str) -> int:
        """What it was thought to cost when it was submitted."""
        return micro_usd(self.platform.jobs.get(self.actor, job_id).estimated_cost_usd)

    def _lines(self, job_id: str) -> list[int]:
        with contextlib.closing(sqlite3.connect(self.folder / "luthier.db")) as connection:
            return [row[0] for row in connection.execute("SELECT micro_usd FROM ledger WHERE job_id = ?", (job_id,))]

    def _draw(self, data, *states: str) -> tuple[str, Expected]:
        job_id = data.draw(st.sampled_from([key for key, job in self.jobs.items() if not states or job.state in states]))
        return job_id, self.jobs[job_id]

    def _pass(self, ms: int) -> None:
        self.steady_ms += ms
        self.wall += timedelta(milliseconds=ms)
        self.latest = max(self.latest, self.wall)

    def _advance_all(self) -> None:
        for run in self.runs:
            run.advance(self.steady_ms, self.wall)

    def _billed(self, run: Run, segments: tuple[Segment, ...]) -> None:
        """The model's bill: slices that were told, each at the price that was in force when it was told first."""
        job = self.jobs[run.job_id]
        for segment in segments:
            if segment.seq not in run.told:
                run.told[segment.seq] = Slice(price=self.prices[job.hardware])
                job.slices.append(run.told[segment.seq])
            run.told[segment.seq].ms = run.slices[segment.seq].ms


def _ended(word: str, attempt: int, job: Expected) -> rules.Attempt:
    failure = Failure(code="diverged", message="The loss is no number.", hint="Lower it.") if word == "failed" else None
    status = None if word == "crashed" else AttemptStatus(attempt=attempt, state=word, failure=failure)
    return rules.Attempt(status, -9 if word == "crashed" else 0, job.wish, job.crashes, max_attempts=3)


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> type[Money]:
    """The state machine, on copies of a data folder with an admin and a dataset."""
    folder = tmp_path_factory.mktemp("template")
    platform = build(Settings(data=folder), now=lambda: BEGAN)
    first_start(platform)
    admin = platform.accounts.authenticate((folder / "admin.key").read_text("utf-8").strip())
    rows = [b'{"prompt": "What is number %d?", "completion": "It is %d."}\n' % (n, n) for n in range(40)]
    for hardware, price in PRICES.items():
        platform.billing.set_price(hardware, usd(price))
    dataset = platform.datasets.upload(admin, Upload(rows, name="numbers"))
    platform.close()
    return type("MoneyHere", (Money,), {"template": folder, "dataset": dataset.id, "steps_seen": 0})


def explore(machine: type[Money], examples: int, steps: int, *, anew: bool = False) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not anew,
        ),
    )


def test_jobs_and_money_are_in_order_whatever_happens(machine):
    explore(machine, 12, 40)
    assert machine.steps_seen > 200


@pytest.mark.prove
def test_jobs_and_money_are_in_order_in_many_lives(machine, record):
    explore(machine, 400, 60, anew=True)
    record(
        "money-machine",
        "Jobs and their money in many made-up lives",
        {
            "steps after which all invariants held (I1 to I5, and the model)": machine.steps_seen,
            "lives": 400,
            "steps in a life, at most": 60,
        },
    )
