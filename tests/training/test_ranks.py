"""One run in two processes: real ones under torchrun, that meet through gloo on a CPU."""

import math
import os
import signal
import subprocess
import sys

import psutil
import pytest
from safetensors.torch import load_file

from luthier.backends.executors.local import LocalExecutor
from luthier.datasets.packing import PassLimits
from luthier.jobs.directory import Control
from luthier.jobs.spec import RunSpec
from luthier.seams import Launch
from luthier.training import ranks
from luthier.training.ranks import Place

TRAIN = {"epochs": 6, "learning_rate": 0.01, "batch_size": 4, "save_steps": 4, "precision": "fp32"}
MORE = {"lora": {"rank": 4, "dropout": 0.1}, "evaluate": {"rows": 2}}


def torchrun(job, *options):
    """The trainer as an executor starts it in two processes."""
    job.claim()
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--shutdown-timeout",
        "60",
    ]
    command = [*launcher, "-m", "luthier.training", job.job.url, "--bases", str(job.bases), "--poll-s", "0.2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with job.folder.with_name(f"{job.folder.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def ended(process, within_s=150) -> int:
    try:
        return process.wait(within_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def same_curve(one, other):
    assert [step for step, _ in one] == [step for step, _ in other]
    for (step, ours), (_, theirs) in zip(one, other, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5), step


@pytest.fixture(scope="module")
def alone(submitted):
    job = submitted(train=TRAIN, validate=True, more=MORE)
    assert job.run() == 0, job.log
    return job


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(submitted, alone):
    job = submitted(train=TRAIN, validate=True, more=MORE)
    assert ended(torchrun(job)) == 0, job.log
    assert job.status.state == "succeeded", job.log
    same_curve(job.losses(), alone.losses())
    assert [(job.folder / "attempts" / "1" / name).exists() for name in ("work", "work-1")] == [False, False]
    ours, theirs = (
        load_file(each.folder / "attempts" / "1" / "results" / "final_model" / "adapter_model.safetensors")
        for each in (job, alone)
    )
    assert all((ours[name] - weight).norm() <= 1e-4 * weight.norm() for name, weight in theirs.items())
    assert job.log.count("Training begins.") == 1


@pytest.mark.slow
def test_what_two_began_one_ends_and_a_stop_reaches_both(submitted, alone, wait_until):
    job = submitted(train=TRAIN, validate=True, more=MORE)
    process = torchrun(job)
    wait_until(lambda: job.status is not None and job.status.step >= 1, process)
    job.job.write_control(Control(attempt=1, want="stop", spec_sha256=job.sha256))
    ended(process)
    assert job.status.state in ("stopped", "succeeded"), job.log
    if job.status.state == "stopped":
        assert job.job.newest_checkpoint().step == job.status.step
        assert job.run() == 0, job.log
    same_curve(job.losses(), alone.losses())


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_all_and_the_run_goes_on_from_its_checkpoint(submitted, alone, wait_until, dies):
    job = submitted(train=TRAIN | {"epochs": 200}, validate=True, more=MORE)
    process = torchrun(job)
    wait_until(lambda: (newest := job.job.newest_checkpoint()) and newest.step >= 4, process)
    ranks_of = {place_of(child): child for child in psutil.Process(process.pid).children() if place_of(child)}
    ranks_of[str(dies)].kill()
    assert ended(process, 60) != 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in ranks_of.values())
    assert job.status.state == "running" or job.status.failure.code == "crashed"


def place_of(process: psutil.Process) -> str:
    return process.environ().get("RANK", "")


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_says_so(submitted, wait_until):
    job = submitted(train=TRAIN | {"epochs": 200}, more=MORE)
    process = torchrun(job)
    wait_until(lambda: job.status is not None and job.status.step >= 1, process)
    process.terminate()
    ended(process, 60)
    assert job.status.state == "preempted", job.log
    assert job.job.newest_checkpoint().step == job.status.step


@pytest.mark.slow
def test_pairs_are_shared_too_and_what_they_tell_is_of_all(submitted):
    pairs = [{"prompt": f"Say {n}", "chosen": f"{n} it is", "rejected": "no"} for n in range(8)]
    jobs = [submitted(train=TRAIN | {"epochs": 2}, lines=pairs, more={"method": "dpo", "lora": {"rank": 4}}) for _ in range(2)]
    assert ended(torchrun(jobs[0])) == 0, jobs[0].log
    assert jobs[1].run() == 0, jobs[1].log
    same_curve(*(job.losses() for job in jobs))
    for name in ("accuracy", "margin"):
        ours, theirs = (each_step(job, name) for job in jobs)
        assert len(theirs) == 4
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def each_step(job, name: str) -> dict[int, float]:
    """What each step told. How many of them one event gathers is a matter of time, so events are not compared."""
    told = [event.data for event in job.job.events() if event.kind == "step"]
    return {row[0]: row[data["columns"].index(name)] for data in told for row in data["steps"]}


@pytest.mark.slow
def test_what_cannot_be_shared_is_the_business_of_the_first_alone(submitted):
    job = submitted(train=TRAIN | {"epochs": 1}, more={"kind": "fit_test"})
    assert ended(torchrun(job)) == 0, job.log
    assert job.status.state == "succeeded", job.log


@pytest.mark.parametrize(
    ("spec", "shared"),
    [({}, True), ({"method": "kto"}, True), ({"kind": "fit_test"}, False), ({"method": "classifier"}, False)],
    ids=str,
)
def test_what_is_shared(spec, shared):
    base = {} if spec.get("method") == "classifier" else {"base_model": "luthier/tiny"}
    assert ranks.can_share([RunSpec(dataset="ds_1", **base, **spec)]) is shared


def test_jobs_that_train_together_are_not_shared():
    spec = RunSpec(base_model="luthier/tiny", dataset="ds_1")
    assert not ranks.can_share([spec, spec])


@pytest.mark.parametrize("environment", [{}, {"RANK": "1"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "2"}])
def test_a_process_that_nobody_placed_is_alone(environment):
    assert ranks.place(environment) == Place()


@pytest.mark.parametrize("units", [1, 2, 3, 7, 16, 33])
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_step_is_shared_evenly_in_as_few_rounds_as_the_limits_allow(units, rows, count):
    made = ranks.narrowed(PassLimits(rows, 512), units, count)
    assert 1 <= made.rows <= rows
    rounds = [math.ceil(math.ceil(units / each) / count) for each in (made.rows, rows)]
    assert rounds[0] == rounds[1]
    assert made.rows * count * rounds[0] - units < count * rounds[0]
    assert made.tokens == 512


@pytest.mark.slow
def test_an_executor_starts_two_and_asks_both_to_save(submitted, wait_until):
    job = submitted(train=TRAIN | {"epochs": 200}, more=MORE)
    job.claim()
    executor = LocalExecutor(job.folder.parent, dict(os.environ))
    launch = Launch((job.job.url,), "trainer.log", job.bases.as_uri(), "job_x-1", processes=2)
    handle = executor.start(launch)
    try:
        wait_until(lambda: job.status is not None and job.status.step >= 1)
        executor.terminate(handle)
        wait_until(lambda: executor.poll(handle) is not None)
    finally:
        executor.kill(handle)
    log = (job.folder.parent / "trainer.log").read_text("utf-8")
    assert job.status.state == "preempted", log
    assert job.job.newest_checkpoint().step == job.status.step


@pytest.mark.slow
def test_all_of_them_end_when_the_one_that_started_them_is_gone(submitted, wait_until):
    job = submitted(train=TRAIN | {"epochs": 200}, more=MORE)
    job.claim()
    executor = LocalExecutor(job.folder.parent, dict(os.environ))
    handle = executor.start(Launch((job.job.url,), "trainer.log", job.bases.as_uri(), "job_x-1", processes=2))
    try:
        wait_until(lambda: job.status is not None and job.status.step >= 1)
        executor.close()
        wait_until(lambda: executor.poll(handle) is not None)
        assert job.status.state == "preempted"
    finally:
        executor.kill(handle)
