from datetime import UTC, datetime
from pathlib import Path

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import AttemptStatus, CheckpointRef, Event, JobDirectory, Manifest, ManifestFile, checkpoint_folder

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def job(tmp_path: Path):
    return JobDirectory(LocalStorage(tmp_path), "users/team_a/jobs/job_a")


def checkpoint(job, attempt: int, step: int, *, torn: bool = False) -> None:
    here = job.attempt(attempt)
    folder = f"checkpoints/{checkpoint_folder(step)}"
    job.storage.write(here.name(folder, "adapter"), b"weight" if torn else b"weights")
    manifest = Manifest(step=step, files={"adapter": ManifestFile(bytes=7, sha256="0" * 64)})
    job.storage.write(here.name(folder, "COMPLETE.json"), manifest.model_dump_json().encode())


def events(job, attempt: int, steps: list[int]) -> None:
    lines = [Event(attempt=attempt, seq=seq, at=NOW, kind="step", step=step).model_dump_json() for seq, step in enumerate(steps)]
    job.storage.write(job.attempt(attempt).name("events", "00000000.jsonl"), "".join(line + "\n" for line in lines).encode())


def test_the_newest_checkpoint_is_the_highest_step_whose_files_are_whole(job):
    checkpoint(job, 1, 100)
    checkpoint(job, 2, 200)
    checkpoint(job, 2, 300, torn=True)
    newest = job.newest_checkpoint()
    assert newest is not None
    assert (newest.attempt, newest.step) == (2, 200)


def test_a_directory_without_checkpoints_starts_from_the_beginning(job):
    assert job.newest_checkpoint() is None
    assert job.attempts() == []
    assert job.control() is None


def test_history_drops_what_an_older_attempt_did_beyond_the_point_of_resume(job):
    events(job, 1, [1, 2, 3, 4])
    events(job, 2, [3, 4, 5])
    resumed = AttemptStatus(attempt=2, resumed_from=CheckpointRef(attempt=1, step=2, sha256="0" * 64))
    job.attempt(2).write_status(resumed)
    assert [(event.attempt, event.step) for event in job.events()] == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]


def went_on(job, attempt: int, step: int) -> None:
    ref = CheckpointRef(attempt=1, step=step, sha256="0" * 64)
    job.attempt(attempt).write_status(AttemptStatus(attempt=attempt, resumed_from=ref))


def test_an_attempt_that_was_killed_before_its_first_word_hides_nothing_from_the_next_one(job):
    events(job, 1, [1, 2, 3, 4])
    job.attempt(2).own({"pid": 1})
    events(job, 3, [3, 4])
    went_on(job, 3, 2)
    assert [(event.attempt, event.step) for event in job.events()] == [(1, 1), (1, 2), (3, 3), (3, 4)]


def test_an_attempt_that_went_on_from_further_back_than_the_one_before_drops_what_both_did_since(job):
    events(job, 1, [1, 2, 3, 4])
    events(job, 2, [4, 5])
    went_on(job, 2, 3)
    events(job, 3, [2, 3])
    went_on(job, 3, 1)
    assert [(event.attempt, event.step) for event in job.events()] == [(1, 1), (3, 2), (3, 3)]


def test_a_job_that_was_never_started_has_no_history(job):
    assert list(job.events()) == []


def test_an_attempt_that_has_said_nothing_yet_has_no_history(job):
    job.attempt(1).own({"pid": 1})
    assert list(job.events()) == []


def test_an_event_that_is_still_being_written_is_not_read(job):
    events(job, 1, [1, 2])
    job.storage.append(job.attempt(1).name("events", "00000000.jsonl"), b'{"attempt": 1, "seq"')
    assert [event.step for event in job.events()] == [1, 2]


def test_only_one_trainer_owns_an_attempt(job):
    assert [job.attempt(1).own({"pid": pid}) for pid in (1, 2)] == [True, False]


def test_a_status_that_cannot_be_read_counts_as_none(job):
    job.storage.write(job.attempt(1).name("status.json"), b'{"attempt":')
    assert job.attempt(1).status() is None
