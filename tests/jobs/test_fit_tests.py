"""A fit test has a slot of its own, shares its trainer with nobody, and ends without a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.billing.machine import Machine
from luthier.billing.service import Billing
from luthier.errors import WillNotFit
from luthier.jobs.service import Jobs, JobServices


@pytest.fixture
def measures(fake):
    def act(run, here) -> int:
        here.storage.write(here.name("results", "fit_test.json"), b"{}")
        here.write_status(fake.running(here, 0).model_copy(update={"state": "succeeded"}))
        return 0

    return act


def test_it_does_not_wait_for_the_job_that_trains(bench, fake, measures):
    bench.trainer.attempts = [fake.runs(), measures]
    busy = bench.submit()
    bench.supervisor.tick()
    bench.until_started(busy)
    waiting, asked = bench.submit(), bench.submit(kind="fit_test")
    bench.supervisor.tick()
    bench.until_last_word(asked)
    bench._eventually(lambda: bench.supervisor.tick() or bench.get(asked).state == "succeeded")
    assert (bench.get(busy).state, bench.get(waiting).state) == ("running", "queued")
    assert bench.get(asked).model_id is None
    assert bench.registry.finished == []


def test_it_trains_with_nobody(bench, measures):
    bench.trainer.attempts = [measures]
    bench.pace = replace(bench.pace, slots=4)
    jobs = [bench.submit(kind="fit_test") for _ in range(3)]
    bench.settle()
    assert [bench.get(job).state for job in jobs] == ["succeeded"] * 3
    assert [len(launch.job_urls) for launch in bench.executor.started] == [1, 1, 1]


def test_what_the_formula_finds_too_large_may_be_measured(bench, alice):
    billing = Billing(bench.database, bench.times.now, Machine(memory_bytes=400_000_000, cores=4))
    services = JobServices(bench.accounts, billing, bench.bases, bench.datasets, bench.models)
    jobs = Jobs(bench.database, bench.storage, services, bench.times.now)
    with pytest.raises(WillNotFit):
        jobs.submit(alice, bench.spec())
    assert jobs.submit(alice, bench.spec(kind="fit_test")).job.kind == "fit_test"
