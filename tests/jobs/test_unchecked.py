"""Jobs on data that is still being checked: they wait, hold nothing, and go on or fail once it is known what the data is."""

from contextlib import contextmanager

import pytest

from luthier.accounts.types import Actor, KeyWish, Role
from luthier.datasets.store import DatasetRow
from luthier.datasets.types import Finding, Report
from luthier.errors import DatasetNotReady, FieldInvalid, InUse
from luthier.jobs.types import JobState

ALICE = Actor("team_alice", "user_alice", Role.ADMIN)
FINDING = Finding(line=3, code="json_syntax", severity="error", message="This is no JSON.", fix="Mend it.")
REFUSED = Report(format="jsonl", schema_name=None, bytes=9, rows=3, usable_rows=2, errors=1, findings=(FINDING,))


@contextmanager
def changed(bench):
    with bench.database.write(ALICE.tenant_id) as session:
        yield session.get(DatasetRow, bench.dataset_id)


def check_is(bench, state, report=None):
    """As the background check leaves it."""
    with changed(bench) as row:
        row.state = state
        row.report = report.model_dump_json() if report else row.report


@pytest.fixture
def waiting(bench):
    check_is(bench, "validating")
    return bench.jobs.submit(ALICE, bench.spec(), patient=True).job


def test_a_job_waits_for_its_data_and_holds_nothing_until_then(bench, waiting):
    bench.billing.set_price("local-cpu", "36.00")
    assert (waiting.state, waiting.estimated_cost_usd) == (JobState.VALIDATING, "0.00")
    bench.jobs.unchecked.round()
    bench.supervisor.tick()
    assert bench.executor.started == []
    with pytest.raises(InUse):
        bench.datasets.delete(ALICE, bench.dataset_id)
    check_is(bench, "ready")
    bench.jobs.unchecked.round()
    job = bench.get(waiting)
    assert job.state == JobState.QUEUED
    assert bench.billing.usage(ALICE).held_usd == job.estimated_cost_usd != "0.00"
    assert bench.jobs.submitted_estimate(ALICE, job.id).rows == 40
    bench.settle()
    assert bench.path_of(job) == ["validating", "queued", "starting", "running", "succeeded"]
    assert bench.billing.usage(ALICE).held_usd == "0.00"


def test_a_refused_file_fails_its_job_with_the_line_and_the_field(bench, waiting):
    check_is(bench, "rejected", REFUSED)
    bench.jobs.unchecked.round()
    job = bench.get(waiting)
    assert (job.state, job.error.code, job.error.param) == (JobState.FAILED, "json_syntax", "dataset")
    assert job.error.message.startswith("Line 3: ")
    assert bench.billing.usage(ALICE).held_usd == "0.00"
    bench.datasets.delete(ALICE, bench.dataset_id)


def test_what_is_too_dear_once_it_is_known_fails_and_may_be_looked_at_again(bench, waiting):
    bench.billing.set_price("local-cpu", "90000.00")
    bench.billing.budgets.set(ALICE, 1_000_000)
    check_is(bench, "ready")
    bench.jobs.unchecked.round()
    assert (bench.get(waiting).state, bench.get(waiting).error.code) == (JobState.FAILED, "budget_exceeded")
    assert bench.billing.usage(ALICE).held_usd == "0.00"
    bench.billing.set_price("local-cpu", "0.01")
    assert bench.jobs.resume(ALICE, waiting.id).state == JobState.VALIDATING
    bench.jobs.unchecked.round()
    assert bench.get(waiting).state == JobState.QUEUED


def test_a_costly_job_then_waits_for_an_admin(bench, waiting):
    bench.billing.set_price("local-cpu", "90000.00")
    check_is(bench, "ready")
    bench.jobs.unchecked.round()
    assert bench.get(waiting).state == JobState.AWAITING_APPROVAL


@pytest.mark.parametrize("verb", ["cancel", "stop", "pause"])
def test_one_that_is_withdrawn_while_it_waits_stays_so(bench, waiting, verb):
    assert getattr(bench.jobs, verb)(ALICE, waiting.id).state == JobState.CANCELLED
    check_is(bench, "ready")
    bench.jobs.unchecked.round()
    assert bench.get(waiting).state == JobState.CANCELLED
    bench.datasets.delete(ALICE, bench.dataset_id)


def test_the_spend_cap_of_the_key_binds_a_job_that_waited(bench):
    holder = bench.accounts.authenticate(bench.accounts.first_start(ALICE.tenant_id))
    capped = bench.accounts.keys.create(holder, KeyWish(name="cheap", spend_cap_usd="1.00"))
    by_key = bench.accounts.authenticate(capped.secret)
    bench.billing.set_price("local-cpu", "90000.00")
    check_is(bench, "validating")
    job = bench.jobs.submit(by_key, bench.spec(), patient=True).job
    check_is(bench, "ready")
    bench.jobs.unchecked.round()
    assert bench.get(job).error.code == "budget_exceeded"
    assert "key" in bench.get(job).error.message


def test_what_can_be_refused_before_the_data_is_known_is_refused_at_once(bench):
    check_is(bench, "validating")
    with pytest.raises(FieldInvalid, match="hardware"):
        bench.jobs.submit(ALICE, bench.spec(hardware="h100"), patient=True)
    with pytest.raises(DatasetNotReady, match="validated"):
        bench.jobs.submit(ALICE, bench.spec())
    check_is(bench, "rejected", REFUSED)
    with pytest.raises(DatasetNotReady, match="rejected"):
        bench.jobs.submit(ALICE, bench.spec(), patient=True)
    assert bench.jobs.list(ALICE).data == []
