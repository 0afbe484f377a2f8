"""Readers beside a writer: what is replaced is read whole, old or new, and is never missing (P11)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs import projection
from luthier.jobs.directory import AttemptDirectory, JobDirectory
from luthier.training.checkpoints import first_whole

from . import actions

pytestmark = pytest.mark.timeout(3000)


@pytest.fixture
def written(tmp_path) -> Iterator[JobDirectory]:
    """A job directory in which another process writes without a pause: status, events, log, checkpoints that come and go."""
    process = subprocess.Popen([sys.executable, actions.__file__, "write", tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    yield JobDirectory(LocalStorage(tmp_path / "job"), "")
    assert process.poll() is None, "the writer has ended"
    process.kill()
    process.communicate()


class Reader:
    """Reads as the platform does, and compares each answer with the one before: nothing may go backwards."""

    def __init__(self, job: JobDirectory, scratch: Path) -> None:
        self.job, self.scratch = job, scratch
        self.attempt: AttemptDirectory = job.attempt(actions.ATTEMPT)
        self.reads: Counter[str] = Counter()
        self.step = self.seq = self.log_bytes = 0
        self.status_changes = 0

    def status(self) -> None:
        status = self.attempt.status()
        assert status is not None, "torn or missing"
        assert status.step >= self.step
        # The writer puts the same number into two places: halves of two writes would differ.
        assert status.tokens_seen == status.step * 1000
        self.status_changes += status.step > self.step
        self.step = status.step

    def log(self) -> None:
        data, size = projection.tail(self.job.storage, self.attempt.name("job.log"), 4096)
        assert size >= self.log_bytes
        self.log_bytes = size
        whole = data[: data.rfind(b"\n") + 1].splitlines()[1:]
        assert all(line.endswith(b".") and b"Z " in line for line in whole)

    def events(self) -> None:
        """From the last one that is known on, as a stream that was cut off goes on."""
        fresh = [event.seq for event in self.job.events(after=(actions.ATTEMPT, self.seq))]
        assert fresh == list(range(self.seq + 1, self.seq + 1 + len(fresh)))
        self.seq = fresh[-1] if fresh else self.seq

    def checkpoints(self) -> None:
        """Listed and fetched while the trainer keeps only the last two: whole, or not there any more."""
        newest = self.job.newest_checkpoint()
        target = self.scratch / str(self.reads["checkpoints"])
        if newest is not None and first_whole(self.job, [newest], target) is not None:
            assert {path.name: path.read_bytes() for path in target.iterdir()} == actions.FILES

    def read(self, kind: str, times: int) -> None:
        act: Callable[[], None] = getattr(self, kind)
        for _ in range(times):
            act()
            self.reads[kind] += 1


ROUND = {"status": 880, "log": 100, "events": 18, "checkpoints": 2}


def read_rounds(reader: Reader, rounds: int) -> None:
    for _ in range(rounds):
        for kind, times in ROUND.items():
            reader.read(kind, times)


def test_p11_readers_see_whole_files_while_they_are_replaced(written, tmp_path):
    reader = Reader(written, tmp_path / "fetched")
    read_rounds(reader, 10)
    assert reader.status_changes > 10
    assert reader.seq > 10


@pytest.mark.prove
def test_p11_a_million_reads(written, tmp_path, record):
    reader = Reader(written, tmp_path / "fetched")
    read_rounds(reader, 1000)
    assert reader.reads.total() == 1_000_000
    record(
        "a-million-reads",
        "A million reads beside a writer",
        {
            **{f"reads: {kind}": number for kind, number in reader.reads.items()},
            "times that the status had changed since the read before": reader.status_changes,
            "events read, each once and in order": reader.seq,
            "bytes that the log had grown to": reader.log_bytes,
            "torn, missing or backwards": 0,
        },
    )
