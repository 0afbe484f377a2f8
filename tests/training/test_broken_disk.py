"""Real trainer processes whose disk is full, or that are killed at a chosen write or rename."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import JobDirectory
from luthier.jobs.resuming import newest_whole
from luthier.training.__main__ import EXIT_NO_LAST_WORD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SHORT = {"max_steps": 24, "learning_rate": 0.01, "batch_size": 2, "save_steps": 4, "warmup_steps": 3}
CALLS = ("write", "rename")


def adapter_sha256(job) -> str:
    return hashlib.sha256(job.result("final_model/adapter_model.safetensors")).hexdigest()


@pytest.fixture(scope="module")
def make(submitted) -> Callable:
    return lambda: submitted(train=SHORT, validate=True, more={"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}})


@pytest.fixture(scope="module")
def uninterrupted(make):
    job = make()
    assert job.run() == 0, job.log
    assert job.status.state == "succeeded", job.log
    return job


@pytest.fixture
def broken(disk, monkeypatch) -> Callable[..., int]:
    """Run one attempt on a disk that breaks; its exit status."""

    def run(job, fault) -> int:
        with monkeypatch.context() as patch:
            for name, value in disk.environment.items():
                patch.setenv(name, value)
            disk.arm(fault)
            return job.run()

    return run


@pytest.fixture
def points(make, broken, disk, fault) -> Callable[[int], list]:
    """Places to kill a trainer at, spread over all its writes and renames by a seeded choice."""

    def choose(how_many: int) -> list:
        found = []
        for call in CALLS:
            job = make()
            assert broken(job, fault(call, "count", under=f"{job.folder}/attempts/")) == 0
            found += [(call, at) for at in range(1, disk.hits() + 1)]
        return sorted(random.Random(7).sample(found, how_many))

    return choose


def killed_and_resumed(job, broken, fault, call: str, at: int):
    """Killed at this call, then started again until it ends by itself."""
    assert broken(job, fault(call, "kill", at, under=f"{job.folder}/attempts/")) == -signal.SIGKILL
    assert job.run() == 0, job.log
    assert job.status.state == "succeeded", job.log
    return job


def check_equal(job, uninterrupted) -> None:
    assert job.losses() == uninterrupted.losses()
    assert adapter_sha256(job) == adapter_sha256(uninterrupted)


@pytest.mark.parametrize(("call", "at"), [("write", 40), ("rename", 30)])
def test_p6_killed_at_a_write_or_a_rename_and_resumed_it_is_the_same_run(make, broken, fault, uninterrupted, call, at):
    check_equal(killed_and_resumed(make(), broken, fault, call, at), uninterrupted)


@pytest.mark.prove
def test_p6_killed_at_twenty_places(make, broken, fault, uninterrupted, points, record):
    resumed_from = []
    chosen = points(20)
    for call, at in chosen:
        job = killed_and_resumed(make(), broken, fault, call, at)
        check_equal(job, uninterrupted)
        resumed_from.append(job.status.resumed_from.step if job.status.resumed_from else 0)
    record(
        "kill-points-of-a-trainer",
        "A trainer that is killed at a write or a rename, and resumed",
        {
            "kills before the N-th write": sum(call == "write" for call, _ in chosen),
            "kills before the N-th rename": sum(call == "rename" for call, _ in chosen),
            "steps that the resumed attempts began from, of 24": ", ".join(map(str, sorted(resumed_from))),
            "runs whose every loss and whose adapter, byte by byte, are those of the uninterrupted run": len(chosen),
            "other runs": 0,
        },
    )


def in_full(*values):
    return pytest.param(*values, marks=pytest.mark.prove)


@pytest.mark.parametrize(
    ("call", "number", "place"),
    [
        ("write", errno.ENOSPC, "work/checkpoint-"),
        in_full("write", errno.EDQUOT, "work/checkpoint-"),
        in_full("rename", errno.EDQUOT, "/optimizer.safetensors"),
        in_full("write", errno.EIO, "/trainer_state.json"),
        in_full("make", errno.ENOSPC, "work/checkpoint-"),
        in_full("fsync", errno.EIO, "/checkpoints/step-"),
        in_full("rename", errno.ENOSPC, "/checkpoints/step-"),
    ],
)
def test_p12_a_checkpoint_that_finds_no_room_ends_the_attempt_and_the_old_one_stays(
    make, broken, fault, uninterrupted, call, number, place
):
    job = make()
    assert broken(job, fault("rename", "kill", under="/checkpoints/step-00000008/")) == -signal.SIGKILL
    assert job.job.newest_checkpoint().step == 4
    assert broken(job, fault(call, "always", 1, number, place)) == 0
    assert (job.status.state, job.status.failure.code) == ("failed", "storage"), job.log
    assert (job.job.newest_checkpoint().attempt, job.job.newest_checkpoint().step) == (1, 4)
    assert list((job.folder / "attempts/2/checkpoints").glob("*")) == []
    assert job.run() == 0, job.log
    assert job.status.resumed_from.step == 4
    check_equal(job, uninterrupted)


@pytest.fixture
def on_small_disk(submitted, small_disk, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """A trainer whose job directory lies on the small disk, as `job`; ended in every case."""
    started = []

    def start(train: dict, *, full: bool = False) -> subprocess.Popen:
        job = submitted(train=train)
        job.claim()
        shutil.copytree(job.folder, small_disk.seen / "job")
        if full:
            small_disk.fill()
        command = [*small_disk.inside, sys.executable, "-m", "luthier.training", f"{small_disk.path}/job", "--bases", job.bases]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_p12_a_disk_that_fills_up_under_a_trainer_leaves_the_last_checkpoint_and_a_last_word(
    on_small_disk, small_disk, wait_until, tmp_path
):
    process = on_small_disk({**SHORT, "max_steps": 100_000})
    complete = "job/attempts/1/checkpoints/*/COMPLETE.json"
    wait_until(lambda: any(path.parent.name >= "step-00000008" for path in small_disk.seen.glob(complete)), process)
    small_disk.fill()
    assert process.wait(60) == 0, (tmp_path / "log").read_text("utf-8")
    # A storage would follow the way to the small disk to its end, which is a folder of the same name on the large one.
    left = Path(shutil.copytree(small_disk.seen / "job", tmp_path / "left"))
    here = JobDirectory(LocalStorage(left), "")
    status = here.attempt(1).status()
    assert (status.state, status.failure.code) == ("failed", "storage")
    assert newest_whole(here).step == status.last_checkpoint_step >= 8
    last = list(here.attempt(1).events())[-1]
    assert (last.kind, last.level, last.data["state"]) == ("state", "error", "failed")
    assert list(left.rglob(".tmp-*")) == []


def test_p12_a_trainer_that_finds_the_disk_full_leaves_at_once_with_a_line(on_small_disk, small_disk, tmp_path):
    process = on_small_disk(SHORT, full=True)
    assert process.wait(60) == EXIT_NO_LAST_WORD
    assert "disk is full" in (tmp_path / "log").read_text("utf-8")
    assert "Traceback" not in (tmp_path / "log").read_text("utf-8")
    assert list((small_disk.seen / "job" / "attempts").rglob("*.*")) == []
