"""Saving a checkpoint and publishing results on a disk that breaks at every single call, one after the other.

Whatever breaks: the status is the old or the new one, what counts as a checkpoint is whole, what is said to be published is
there, and the next attempt saves and publishes as if nothing had been.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from itertools import count

import pytest
import yaml

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import JobDirectory
from luthier.jobs.resuming import newest_whole
from luthier.training.checkpoints import first_whole

from .actions import ATTEMPT, CONFIG, MODEL, NEW_STEP, OLD_STEP, RESULTS, Attempt, results_of

CALLS = ("write", "fsync", "rename", "link", "make")
ERRORS = tuple((how, number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO) for how in ("once", "always"))
KILLS = (("torn", 0), ("kill", 0), ("after", 0))
KILLED = -9
FAILED, NO_LAST_WORD = 2, 1


def check(action: str, outcome) -> None:
    """All that must hold after an action, whether it ended well, failed or was killed."""
    job = JobDirectory(LocalStorage(outcome.root / "job"), "")
    _what_is_there_is_whole(job, outcome)
    _what_was_said_is_true(action, job, outcome)
    if outcome.status != KILLED:
        assert list(outcome.root.rglob(".tmp-*")) == []
        assert list((outcome.root / "work").glob("checkpoint-*")) == []
        steps = {ref.step for ref in job.attempt(ATTEMPT).checkpoints()}
        # Part of a checkpoint would take the room that the last word needs.
        assert {int(path.name[5:]) for path in (outcome.root / "job").glob("attempts/1/checkpoints/*")} == steps
    assert [name for name in job.storage.names("attempts") if ".tmp" in name] == []
    _the_next_attempt_goes_on(job, outcome.root)
    shutil.rmtree(outcome.root)


def _what_is_there_is_whole(job: JobDirectory, outcome) -> None:
    attempt = job.attempt(ATTEMPT)
    refs = list(attempt.checkpoints())
    assert [ref.step for ref in refs] in ([OLD_STEP], [OLD_STEP, NEW_STEP])
    for ref in refs:
        assert first_whole(job, [ref], outcome.root / f"fetched-{ref.step}") == ref
    assert newest_whole(job) == job.newest_checkpoint() == refs[-1]
    events = list(attempt.events())
    assert [event.seq for event in events] == list(range(len(events)))
    assert len(events) >= 3
    whole = expected_results()
    assert all(whole[name] == data for name, data in results_of(attempt).items())


def _what_was_said_is_true(action: str, job: JobDirectory, outcome) -> None:
    attempt = job.attempt(ATTEMPT)
    status = attempt.status()
    assert status is not None
    assert status.step in (OLD_STEP, NEW_STEP)
    steps = [ref.step for ref in attempt.checkpoints()]
    assert status.last_checkpoint_step in steps
    if status.state == "succeeded":
        assert results_of(attempt).keys() == expected_results().keys()
    if outcome.status == 0:
        assert (status.state, steps) == (("running", [OLD_STEP, NEW_STEP]) if action == "save" else ("succeeded", [OLD_STEP]))
    elif outcome.status == FAILED:
        assert (status.state, status.failure.code) == ("failed", "storage")
    else:
        assert outcome.status in (KILLED, NO_LAST_WORD)


def _the_next_attempt_goes_on(job: JobDirectory, root) -> None:
    again = Attempt(root, ATTEMPT + 1, NEW_STEP + 10)
    again.begin()
    assert newest_whole(job).attempt == ATTEMPT + 1
    again.publish()
    assert again.directory.status().state == "succeeded"
    assert results_of(again.directory) == expected_results()


def expected_results() -> dict[str, bytes]:
    written = {name: (json.dumps(value, indent=2) + "\n").encode() for name, value in RESULTS.items()}
    model = {f"final_model/{name}": data for name, data in MODEL.items()}
    return {**written, **model, "config.yaml": yaml.safe_dump(CONFIG, sort_keys=False).encode()}


def sweep(trainer, fault, action: str, call: str, how: tuple[str, int]) -> int:
    """Break the first call, then the second, until the action completes untouched. Returns how many were broken."""
    for at in count(1):
        outcome = trainer.does(action, fault(call, how[0], at, how[1]))
        check(action, outcome)
        if not outcome.broke:
            assert outcome.status == 0
            return at - 1
        if how in KILLS:
            assert outcome.status == KILLED
    raise AssertionError


@pytest.mark.parametrize("action", ["save", "publish"])
def test_p12_whichever_call_is_the_first_that_finds_the_disk_full(trainer, fault, action):
    for call in CALLS:
        assert sweep(trainer, fault, action, call, ("always", errno.ENOSPC)) > 0


@pytest.mark.parametrize("action", ["save", "publish"])
def test_p11_whichever_write_or_rename_is_the_last(trainer, fault, action):
    for call, how in (("write", "torn"), ("rename", "kill"), ("link", "after")):
        assert sweep(trainer, fault, action, call, (how, 0)) > 0


def test_p1_a_new_folder_is_on_disk_before_what_lies_in_it(disk, fault, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    disk.arm(fault("fsync", "count", under=str(root)))
    code = "import sys, pathlib; from luthier.backends.storage.local import LocalStorage as S; "
    code += "S(pathlib.Path(sys.argv[1])).write('a/b/c/file', b'x')"
    subprocess.run([sys.executable, "-c", code, root], env={**os.environ, **disk.environment}, check=True)
    assert disk.hits() == len(["the file", "c, which names it", "b, which names c", "a, which names b", "the root"])


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_every_call_breaks_in_every_way(trainer, fault, record):
    broken = {"save": 0, "publish": 0}
    for action in broken:
        for call in CALLS:
            for how in (*ERRORS, *KILLS):
                found = sweep(trainer, fault, action, call, how)
                assert found > 0
                broken[action] += found
    record(
        "faults-of-the-disk",
        "A disk that breaks while a trainer saves and publishes",
        {
            "kinds of call that break (write, fsync, rename, link, new file or folder)": len(CALLS),
            "ways to break (ENOSPC, EDQUOT, EIO: once or from then on; torn and killed; killed before; killed after)": 9,
            "faults while a checkpoint is saved, each call in turn": broken["save"],
            "faults while results are published, each call in turn": broken["publish"],
            "torn or mixed status, part of a checkpoint that counts, result that is not whole": 0,
            "next attempts that could not save and publish": 0,
        },
    )
