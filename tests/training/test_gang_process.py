"""A real trainer of several job directories: each job is what it would have been alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from tests.training.conftest import SUPPORT, Submitted, few_threads, until

from luthier.jobs.directory import Control
from luthier.training.__main__ import main
from luthier.training.batches import Order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GAP = 1e-4
"""Relative, between the losses of a job in a gang and of the same job alone."""

LONGER = [(f"{question}? Please say more about {index} of them.", answer) for index, (question, answer) in enumerate(SUPPORT)]
FOUR = [
    {
        "train": {"learning_rate": 0.01, "batch_size": 2, "warmup_steps": 3},
        "more": {"seed": 1, "lora": {"rank": 4, "alpha": 8}},
    },
    {
        "train": {"learning_rate": 0.003, "batch_size": 4, "schedule": "linear"},
        "more": {"seed": 2, "lora": {"rank": 8}},
        "rows": LONGER,
    },
    {
        "train": {"learning_rate": 0.02, "batch_size": 1, "gradient_accumulation": 3},
        "more": {"seed": 3, "lora": {"rank": 2, "targets": ["q_proj", "v_proj", "down_proj"]}},
        "rows": SUPPORT[:5],
    },
    {
        "train": {"learning_rate": 0.005, "batch_size": 8, "max_seq_len": 24},
        "more": {"seed": 4, "lora": {"rank": 16, "rslora": True}},
        "rows": LONGER[::-1] + SUPPORT,
    },
]
"""They share a base, and nothing else."""
STEPS = (24, 18, 22, 16)
SAVE_STEPS = (6, 5, 3, 7)


def start(jobs: Sequence[Submitted], **environment: str) -> subprocess.Popen[bytes]:
    """One trainer of all these jobs, as a supervisor starts it: each goes on from its newest checkpoint."""
    for job in jobs:
        job.claim()
    urls = [job.job.url for job in jobs]
    command = [sys.executable, "-m", "luthier.training", *urls, "--bases", str(jobs[0].bases), "--poll-s", "0.2"]
    with log_of(jobs).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**few_threads(), **environment})


def log_of(jobs: Sequence[Submitted]) -> Path:
    return jobs[0].folder.with_name("gang.log")


def together(jobs: Sequence[Submitted], **environment: str) -> int:
    """Until the trainer ends. Returns its exit status."""
    process = start(jobs, **environment)
    try:
        return process.wait(300)
    finally:
        process.kill()


def alone(job: Submitted) -> Submitted:
    """The job on its own, in this process, to the end."""
    job.claim()
    assert main([job.job.url, "--bases", str(job.bases)]) == 0
    assert states([job]) == ["succeeded"], job.status
    return job


def states(jobs: Sequence[Submitted]) -> list[str | None]:
    return [job.status.state if job.status else None for job in jobs]


def codes(jobs: Sequence[Submitted]) -> list[str | None]:
    return [job.status.failure.code if job.status and job.status.failure else None for job in jobs]


def gap(one: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]]) -> float:
    """The largest relative distance of two curves of the same steps."""
    assert [step for step, _ in one] == [step for step, _ in other]
    return max(abs(a - b) / max(abs(b), 1e-3) for (_, a), (_, b) in zip(one, other, strict=True))


def widest_gap(jobs: Sequence[Submitted], references: Sequence[Submitted]) -> float:
    return max(gap(job.losses(), reference.losses()) for job, reference in zip(jobs, references, strict=True))


def reaches(job: Submitted, step: int) -> Callable[[], bool]:
    """Whether the attempt that runs has done this step."""
    return lambda: (status := job.status) is not None and status.phase == "training" and status.step >= step


@pytest.fixture(scope="module")
def four(submitted) -> Callable[..., list[Submitted]]:
    def make(steps: Sequence[int] = STEPS, save_steps: Sequence[int] = SAVE_STEPS) -> list[Submitted]:
        jobs = []
        for each, total, often in zip(FOUR, steps, save_steps, strict=True):
            train = {**each["train"], "max_steps": total, "save_steps": often}
            jobs.append(submitted(**{**each, "train": train}))
        return jobs

    return make


@pytest.fixture(scope="module")
def apart(four) -> list[Submitted]:
    """Each of the four, trained alone and never disturbed."""
    return [alone(job) for job in four()]


def test_one_of_four_is_stopped_and_resumed_and_all_four_curves_are_those_of_the_jobs_alone(four, apart):
    jobs = four()
    leaving = jobs[2]
    process = start(jobs)
    until(reaches(leaving, 4), process)
    leaving.job.write_control(Control(attempt=1, want="stop", spec_sha256=leaving.sha256))
    assert process.wait(300) == 0
    assert states(jobs) == ["succeeded", "succeeded", "stopped", "succeeded"]
    assert 4 <= leaving.job.newest_checkpoint().step == leaving.status.step < STEPS[2]
    alone(leaving)
    assert leaving.status.resumed_from.attempt == 1
    assert widest_gap(jobs, apart) < GAP


def test_a_gang_that_is_killed_in_a_save_and_resumed_has_the_curves_of_the_jobs_alone(four, apart, disk, fault):
    jobs = four()
    place = f"{jobs[0].folder}/attempts/1/checkpoints/step-00000012/"
    disk.arm(fault("rename", "kill", 2, under=place))
    assert together(jobs, **disk.environment) == -signal.SIGKILL
    assert any(Path(place).iterdir())
    assert jobs[0].job.newest_checkpoint().step == 6
    disk.disarm()
    assert together(jobs) == 0
    assert states(jobs) == ["succeeded"] * 4
    assert [job.status.resumed_from.step for job in jobs] == [6, 10, 3, 7]
    assert widest_gap(jobs, apart) < GAP


LONG = (60, 52, 56, 50)


@pytest.mark.prove
def test_p6_gangs_that_are_killed_at_random_steps_have_the_curves_of_the_jobs_alone(four, disk, fault, record):
    references = [alone(job) for job in four(LONG, (10, 10, 10, 10))]
    undisturbed = four(LONG, (10, 10, 10, 10))
    assert together(undisturbed) == 0
    gaps, kills = [], 0
    for seed in range(4):
        jobs = four(LONG, (5, 7, 6, 4))
        choose = random.Random(seed)
        for step in sorted(choose.sample(range(4, 40), 2)):
            process = start(jobs)
            until(reaches(jobs[0], step), process)
            process.kill()
            process.wait(30)
            kills += 1
        # At a write, a rename or a flush of whatever job's save comes then.
        disk.arm(fault(choose.choice(["write", "rename", "fsync"]), "kill", choose.randrange(1, 20), under="/checkpoints/step-"))
        assert together(jobs, **disk.environment) == -signal.SIGKILL
        disk.disarm()
        assert together(jobs) == 0
        assert states(jobs) == ["succeeded"] * 4
        gaps.append(widest_gap(jobs, references))
    assert max(gaps) < GAP
    record(
        "gangs-that-are-killed",
        "Four jobs in one trainer that is killed again and again",
        {
            "steps of the four jobs": ", ".join(map(str, LONG)),
            "widest relative gap of a loss to that of the job alone, undisturbed": f"{widest_gap(undisturbed, references):.1e}",
            "gangs that were killed and resumed": len(gaps),
            "kills -9 at a random step": kills,
            "kills -9 in a save": len(gaps),
            "widest relative gap of a loss to that of the job alone, killed": f"{max(gaps):.1e}",
        },
    )


# -- methods -----------------------------------------------------------------------------------------------------------


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


PAIRS = [
    {"prompt": turn("user", question), "chosen": turn("assistant", answer), "rejected": turn("assistant", "I do not know.")}
    for question, answer in SUPPORT
]
RATED = [
    {"prompt": turn("user", question), "completion": turn("assistant", answer if good else "No."), "label": good}
    for question, answer in SUPPORT
    for good in (True, False)
]
PROMPTS = [{"prompt": turn("user", question), "answer": answer} for question, answer in SUPPORT]
GRPO = {
    # About half of what a model says that knows nothing yet.
    "grader": {"type": "regex", "pattern": "e"},
    "temperature": 4.0,
    "group_size": 4,
    "max_new_tokens": 5,
    "beta": 0.05,
    "updates_per_batch": 2,
}
SETTINGS = {"learning_rate": 0.004, "batch_size": 2, "save_steps": 3, "max_steps": 8, "warmup_steps": 2}
METHODS = {
    "sft": {"rows": LONGER},
    "dpo": {"lines": PAIRS, "more": {"method": "dpo", "seed": 1}},
    "orpo": {"lines": PAIRS, "more": {"method": "orpo", "seed": 2}},
    "kto": {"lines": RATED, "more": {"method": "kto", "seed": 3}},
    "grpo": {"lines": PROMPTS, "more": {"method": "grpo", "seed": 4, "grpo": GRPO}},
}
WILD = {
    "train": {"learning_rate": 1.0, "batch_size": 1, "max_steps": 400, "save_steps": 400},
    "lines": PAIRS + [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS],
    "more": {"method": "dpo", "seed": 5, "dpo": {"beta": 10}},
}
"""Pairs that contradict each other, learned much too fast."""


@pytest.fixture(scope="module")
def of_method(submitted) -> Callable[[str], Submitted]:
    return lambda name: submitted(train=SETTINGS, **METHODS[name])


@pytest.fixture(scope="module")
def undisturbed(of_method) -> dict[str, Submitted]:
    return {name: alone(of_method(name)) for name in METHODS}


def test_five_methods_in_one_process_have_the_losses_of_each_alone_and_the_one_that_diverges_fails_alone(
    of_method, undisturbed, submitted
):
    jobs = [of_method(name) for name in METHODS]
    wild = submitted(**WILD)
    assert together([wild, *jobs]) == 0, log_of([wild]).read_text("utf-8")
    assert states(jobs) == ["succeeded"] * 5
    assert (states([wild]), codes([wild])) == (["failed"], ["diverged"])
    assert "learning_rate" in wild.status.failure.hint
    assert widest_gap(jobs, list(undisturbed.values())) < GAP


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_p6_a_method_with_a_memory_of_its_own_that_was_killed_and_resumed_is_the_same_bit_by_bit(
    of_method, undisturbed, disk, fault, name
):
    job = of_method(name)
    # For grpo step 3 lies in the middle of a round: its answers come from the checkpoint.
    disk.arm(fault("rename", "kill", 2, under=f"{job.folder}/attempts/1/checkpoints/step-00000006/"))
    assert together([job], **disk.environment) == -signal.SIGKILL
    alone(job)
    assert job.status.resumed_from.step == 3
    assert job.losses() == undisturbed[name].losses()
    weights = "final_model/adapter_model.safetensors"
    assert job.result(weights) == undisturbed[name].result(weights)


# -- memory ------------------------------------------------------------------------------------------------------------

SHORT_ROWS = 200
LONG_ROW = ("Say all.", "one two three four five six seven eight nine ten " * 3000)


@pytest.fixture(scope="module")
def wide_bases(bases, tmp_path_factory) -> Path:
    """The base of the others, with room for a long row."""
    wide = tmp_path_factory.mktemp("wide") / "bases"
    shutil.copytree(bases, wide)
    config = wide / "luthier--tiny" / "1" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "max_position_embeddings": 65536}), "utf-8")
    return wide


@pytest.mark.prove
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes memory from a process that runs")
def test_a_job_whose_row_does_not_fit_into_memory_fails_alone(wide_bases, tmp_path):
    rows = [*((f"Say {number}.", "yes") for number in range(SHORT_ROWS)), LONG_ROW]
    late = SHORT_ROWS - 5
    seed = next(seed for seed in range(10_000) if SHORT_ROWS in Order(seed, len(rows), 1).of_step(late))
    train = {"learning_rate": 0.005, "batch_size": 1, "max_steps": SHORT_ROWS, "save_steps": 20}
    heavy = Submitted(tmp_path / "heavy" / "job", wide_bases, train, rows=rows, more={"seed": seed})
    other, reference = (Submitted(tmp_path / name / "job", wide_bases, train) for name in ("other", "reference"))
    process = start([other, heavy])
    until(reaches(heavy, 1), process)
    os.kill(process.pid, signal.SIGSTOP)
    held = psutil.Process(process.pid).memory_info().vms
    assert heavy.status.step < late
    resource.prlimit(process.pid, resource.RLIMIT_AS, (held + 2**29, held + 2**29))
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(300) == 0
    assert (states([heavy]), codes([heavy]), heavy.status.step) == (["failed"], ["out_of_memory"], late)
    assert "max_seq_len" in heavy.status.failure.hint
    assert states([other]) == ["succeeded"], (other.status, log_of([other]).read_text("utf-8"))
    assert widest_gap([other], [alone(reference)]) < GAP
