"""Trainers that wait for their job: they train what a cold one trains, to the last bit, and leave when nobody needs them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
from tests.training.conftest import few_threads

from luthier.jobs.directory import EXIT_FENCED, EXIT_SETUP
from luthier.jobs.spec import RunSpec
from luthier.training.__main__ import main
from luthier.training.fitting import LoadedBases
from luthier.training.warm import Order, Ready, read_order, stand_of, wait_for_order

# -- the order ---------------------------------------------------------------------------------------------------------


class Pipe:
    """What `wait_for_order` reads, and how it would have left."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.left = threading.Event()
        self.statuses: list[int] = []

    def leave(self, status: int) -> None:
        self.statuses.append(status)
        self.left.set()

    def wait(self, prepare=lambda: "ready"):
        return wait_for_order(self.read_end, prepare, self.leave)

    def close(self) -> None:
        os.close(self.write_end)


ORDER = {"jobs": ["file:///jobs/x", "file:///jobs/y"], "log": "/logs/job.log"}


def test_an_order_may_come_in_pieces_and_while_it_gets_ready():
    pipe = Pipe()
    line = json.dumps(ORDER).encode() + b"\n"

    def prepare() -> str:
        for at in range(0, len(line), 7):
            os.write(pipe.write_end, line[at : at + 7])
        return "ready"

    assert pipe.wait(prepare) == (Order(("file:///jobs/x", "file:///jobs/y"), Path("/logs/job.log")), "ready")
    assert pipe.statuses == []
    pipe.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"", 0), (b'{"jobs": [', 0), (b"hello\n", EXIT_SETUP), (b'{"jobs": ["x"]}\n', EXIT_SETUP), (b"[]\n", EXIT_SETUP)],
)
def test_a_pipe_that_ends_without_an_order_ends_the_process_though_it_still_gets_ready(said, status):
    pipe = Pipe()

    class Left(Exception):
        pass

    def prepare() -> str:
        os.write(pipe.write_end, said)
        pipe.close()
        assert pipe.left.wait(20)
        raise Left

    with pytest.raises(Left):
        pipe.wait(prepare)
    assert pipe.statuses == [status]


@pytest.mark.parametrize("line", ["{}", "null", '{"log": "x"}'])
def test_an_order_that_is_none_is_refused(line):
    with pytest.raises((KeyError, TypeError)):
        read_order(line.encode())


@pytest.mark.parametrize("arguments", [[], ["--warm"], ["--warm", "job", "--parent-pipe", "0"]])
def test_a_trainer_has_jobs_or_waits_for_them_at_a_pipe(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--warm" in capsys.readouterr().err


# -- what is in memory -------------------------------------------------------------------------------------------------

PIN = {"id": "ds_1", "url": "file:///rows.jsonl", "sha256": "0" * 64}
BASE = {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}


def spec(base: dict | None = None, **train) -> RunSpec:
    sources = {"dataset": PIN, "base": {**BASE, **(base or {})}}
    return RunSpec.model_validate({"base_model": "luthier/tiny", "dataset": "ds_1", "train": train, "sources": sources})


@pytest.mark.parametrize("other", [{"seed": 7}, {"name": "theirs"}, {"lora": {"rank": 2}}], ids=str)
def test_a_base_goes_to_a_run_that_stands_on_it_once(other):
    loaded = LoadedBases()
    ready = Ready(loaded, stand_of(spec()))
    asks = RunSpec.model_validate({**spec().model_dump(exclude_none=True), **other})
    assert ready.take(asks) is loaded
    assert ready.take(asks) is not loaded


@pytest.mark.parametrize(
    "unlike",
    [
        spec({"revision": "2"}),
        spec({"id": "other/base", "url": "hub:other/base"}),
        spec(precision="bf16"),
        spec(quantization="8bit"),
        spec(device="cpu"),
    ],
)
def test_the_memory_of_a_base_that_the_run_does_not_stand_on_is_given_back(unlike):
    loaded = LoadedBases()
    ready = Ready(loaded, stand_of(spec()))
    assert ready.take(unlike) is not loaded
    gone = weakref.ref(loaded)
    del loaded
    assert gone() is None


# -- real processes ----------------------------------------------------------------------------------------------------

slow = pytest.mark.slow
TRAIN = {"max_steps": 12, "learning_rate": 0.01, "batch_size": 2}
DROPOUT = {"lora": {"rank": 4, "dropout": 0.1}}


class Trainer:
    """A process that waits, driven as an executor drives it."""

    def __init__(self, out: Path, bases: Path, *options: str) -> None:
        self.out = out
        command = [sys.executable, "-m", "luthier.training", "--warm", "--bases", str(bases), "--parent-pipe", "0"]
        with self.out.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--poll-s", "0.2", *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=few_threads(),
            )

    def train(self, *jobs) -> None:
        """Claim and order."""
        for job in jobs:
            job.claim()
        log = jobs[0].folder.with_name(f"{jobs[0].folder.name}.log")
        line = json.dumps({"jobs": [job.job.url for job in jobs], "log": str(log)})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    @property
    def is_ready(self) -> bool:
        return "Ready after" in self.out.read_text()

    def ended(self) -> int:
        return self.process.wait(120)


@pytest.fixture
def warm(tmp_path, bases, wait_until):
    made = []

    def make(*options: str, ready: bool = True) -> Trainer:
        trainer = Trainer(tmp_path / f"warm-{len(made)}.log", bases, *options)
        made.append(trainer)
        if ready:
            wait_until(lambda: trainer.is_ready, trainer.process)
        return trainer

    yield make
    for trainer in made:
        trainer.process.kill()
        trainer.process.wait(30)
        trainer.process.stdin.close()


def adapter_sha256(job) -> str:
    return hashlib.sha256(job.result("final_model/adapter_model.safetensors")).hexdigest()


@pytest.fixture(scope="module")
def cold(submitted):
    """What an ordinary trainer makes of the job."""
    job = submitted(train=TRAIN, more=DROPOUT)
    assert job.run() == 0, job.log
    return job


@slow
def test_what_it_trains_is_what_a_cold_trainer_trains_bit_by_bit(submitted, cold, warm):
    trainer = warm("--like", cold.job.url)
    assert "and luthier/tiny." in trainer.out.read_text()
    job = submitted(train=TRAIN, more=DROPOUT)
    trainer.train(job)
    assert trainer.ended() == 0, job.log
    assert job.status.state == "succeeded"
    assert job.losses() == cold.losses()
    assert adapter_sha256(job) == adapter_sha256(cold)
    owner = json.loads((job.folder / "attempts/1/owner.json").read_text())
    assert owner["pid"] == trainer.process.pid
    assert "Step 12 of 12" in job.log
    assert "Step" not in trainer.out.read_text()


@slow
def test_a_base_that_the_job_does_not_stand_on_changes_nothing(submitted, cold, warm):
    like = submitted(train={**TRAIN, "precision": "bf16"})
    trainer = warm("--like", like.job.url)
    job = submitted(train=TRAIN, more=DROPOUT)
    trainer.train(job)
    assert trainer.ended() == 0, job.log
    assert job.losses() == cold.losses()


@slow
def test_several_jobs_in_one_order_are_a_gang(submitted, cold, warm):
    trainer = warm("--like", cold.job.url)
    jobs = [submitted(train=TRAIN, more={"lora": {"rank": rank}}) for rank in (2, 8)]
    trainer.train(*jobs)
    assert trainer.ended() == 0
    assert [job.status.state for job in jobs] == ["succeeded", "succeeded"]


@slow
@pytest.mark.parametrize("like", ["missing", "none"])
def test_without_a_job_that_came_before_it_waits_with_no_base(submitted, cold, warm, tmp_path, like):
    trainer = warm(*(["--like", (tmp_path / "nowhere").as_uri()] if like == "missing" else []))
    assert "and no base." in trainer.out.read_text()
    job = submitted(train=TRAIN, more=DROPOUT)
    trainer.train(job)
    assert trainer.ended() == 0, job.log
    assert job.losses() == cold.losses()


@slow
def test_a_base_that_would_take_too_much_memory_is_not_loaded_ahead(cold, warm):
    assert "and no base." in warm("--like", cold.job.url, "--max-memory-mb", "64").out.read_text()


@slow
def test_an_order_that_comes_early_waits_for_the_trainer(submitted, cold, warm):
    trainer = warm("--like", cold.job.url, ready=False)
    job = submitted(train=TRAIN, more=DROPOUT)
    trainer.train(job)
    assert trainer.ended() == 0, job.log
    assert job.losses() == cold.losses()


@slow
@pytest.mark.parametrize("ready", [True, False])
def test_it_leaves_at_once_when_nobody_needs_it(warm, ready):
    trainer = warm(ready=ready)
    trainer.process.stdin.close()
    assert trainer.process.wait(5) == 0


@slow
def test_the_end_of_the_pipe_still_means_save_and_exit_once_it_trains(submitted, cold, warm, wait_until):
    trainer = warm("--like", cold.job.url)
    job = submitted(train={**TRAIN, "max_steps": 20_000})
    trainer.train(job)
    wait_until(lambda: job.status is not None and (job.status.step or 0) >= 3, trainer.process)
    trainer.process.stdin.close()
    assert trainer.ended() == 0
    assert job.status.state == "preempted"
    assert job.job.newest_checkpoint().step >= 3


@slow
def test_what_is_wrong_with_a_job_ends_as_in_a_cold_trainer(submitted, cold, warm):
    taken = submitted(train=TRAIN)
    (taken.folder / "attempts/1").mkdir(parents=True)
    (taken.folder / "attempts/1/owner.json").write_text("{}")
    broken = submitted(train=TRAIN)
    (broken.folder / "run.yaml").unlink()
    for job, status in ((taken, EXIT_FENCED), (broken, EXIT_SETUP)):
        trainer = warm("--like", cold.job.url)
        trainer.train(job)
        assert trainer.ended() == status, job.log
    assert "run.yaml" in broken.log
