import threading
from datetime import UTC, datetime

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import CheckpointRef, Failure, JobDirectory
from luthier.training.journal import CHUNK_BYTES, Journal, StepReport

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Recording(LocalStorage):
    """Remembers the order of writes."""

    def __init__(self, root):
        super().__init__(root)
        self.written: list[str] = []

    def write(self, name, data):
        self.written.append(name)
        super().write(name, data)


@pytest.fixture
def job(tmp_path):
    return JobDirectory(Recording(tmp_path), "")


class Stepping:
    """A clock that a test moves."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def report(step: int) -> StepReport:
    return StepReport(step, step / 10, 1.0 / step, 1e-3, 0.5, step * 100, 1000.0, 5_000_000)


def losses(job) -> list[tuple[int, float]]:
    return [(step[0], step[1]) for event in job.events() if event.kind == "step" for step in event.data["steps"]]


def test_events_are_written_before_the_status_that_mentions_them(job):
    Journal(job.attempt(1), lambda: NOW).begin(None)
    assert job.storage.written == ["attempts/1/events/00000000.jsonl", "attempts/1/status.json"]


def test_a_hundred_steps_a_second_are_one_write_a_second_and_no_loss_is_left_out(job):
    clock = Stepping()
    journal = Journal(job.attempt(1), lambda: NOW, monotonic=clock)
    journal.begin(None)
    for step in range(1, 301):
        clock.seconds += 0.01
        journal.step(report(step))
    journal.flush()
    assert losses(job) == [(step, 1.0 / step) for step in range(1, 301)]
    assert len(job.storage.written) <= 2 * 5
    status = job.attempt(1).status()
    assert (status.step, status.loss, status.tokens_seen) == (300, 1.0 / 300, 30_000)


def test_the_first_step_of_an_attempt_is_told_at_once(job):
    journal = Journal(job.attempt(1), lambda: NOW, monotonic=Stepping())
    journal.begin(None)
    journal.step(report(11))
    journal.step(report(12))
    assert losses(job) == [(11, 1.0 / 11)]
    assert job.attempt(1).status().step == 11


def test_the_time_left_follows_from_the_steps_of_this_attempt(job):
    clock = Stepping()
    journal = Journal(job.attempt(1), lambda: NOW, monotonic=clock)
    journal.facts(total_steps=30)
    for step in range(11, 21):
        clock.seconds += 2.0
        journal.step(report(step))
    assert journal.status.eta_seconds == 20.0


def test_chunks_stay_small_and_their_names_count_on(job):
    journal = Journal(job.attempt(1), lambda: NOW)
    for number in range(300):
        journal.event("warning", f"{number} " + "x" * 1000)
    names = list(job.storage.names("attempts/1/events"))
    assert len(names) > 4
    assert all(job.storage.size(name) <= CHUNK_BYTES for name in names)
    events = list(job.attempt(1).events())
    assert [event.seq for event in events] == list(range(300))


def test_the_first_status_says_where_the_attempt_goes_on_from(job):
    ref = CheckpointRef(attempt=1, step=40, sha256="0" * 64)
    Journal(job.attempt(2), lambda: NOW).begin(ref)
    status = job.attempt(2).status()
    assert (status.resumed_from, status.step) == (ref, 40)


def test_the_last_word_carries_the_failure(job):
    failure = Failure(code="diverged", message="m", hint="h")
    Journal(job.attempt(1), lambda: NOW).state("failed", "m h", failure)
    assert job.attempt(1).status().failure == failure
    assert [event.data["state"] for event in job.attempt(1).events()] == ["failed"]


def test_a_run_by_hand_keeps_its_log_beside_the_events(job):
    Journal(job.attempt(1), lambda: NOW, keep_log=True).begin(None)
    assert job.storage.read("attempts/1/job.log") == b"2026-11-21 00:00:00Z INFO    Attempt 1 starts.\n"


def test_a_reader_beside_the_writer_never_sees_a_torn_file(job):
    journal = Journal(job.attempt(1), lambda: NOW)
    journal.begin(None)
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            status = job.attempt(1).status()
            assert status is not None
            steps = losses(job)
            # Events come before status: whoever sees a step in the status finds its loss.
            assert not status.step or len(steps) >= status.step
            assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
            seen.append(status.step)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 200):
        journal.step(report(step))
        journal.flush()
    done.set()
    reader.join()
    assert len(seen) > 5
