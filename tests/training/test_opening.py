"""What happens before torch is loaded, as the process that an executor starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import EXIT_FENCED, EXIT_SETUP, AttemptStatus, Control, JobDirectory, Manifest, checkpoint_folder
from luthier.training.__main__ import local_path
from luthier.training.opening import open_run, read_spec, resume_candidates

SPEC = {"base_model": "luthier/tiny", "dataset": "train.jsonl"}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "job"
    path.mkdir()
    return path


@pytest.fixture
def job(folder):
    return JobDirectory(LocalStorage(folder), "")


def trainer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "luthier.training", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def missing(run: Path) -> None:
    pass


def empty(run: Path) -> None:
    run.write_bytes(b" \n")


def a_directory(run: Path) -> None:
    run.mkdir()


def a_symlink(run: Path) -> None:
    run.with_name("real.yaml").write_text(yaml.safe_dump(SPEC), "utf-8")
    run.symlink_to("real.yaml")


def a_fifo(run: Path) -> None:
    os.mkfifo(run)


def huge(run: Path) -> None:
    run.write_bytes(b"#" * (1024 * 1024 + 1))


@pytest.mark.parametrize("make", [missing, empty, a_directory, a_symlink, a_fifo, huge])
def test_j24_a_directory_without_a_plain_run_yaml_is_refused_in_one_line(folder, make):
    make(folder / "run.yaml")
    began = time.monotonic()
    done = trainer(folder)
    assert done.returncode == EXIT_SETUP
    assert time.monotonic() - began < 5  # 1 s on a quiet machine; this one may be busy
    assert done.stderr.count("\n") == 1
    assert "run.yaml" in done.stderr
    assert not (folder / "attempts").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "run.yaml: "),
        ("- 1", "run.yaml"),
        ("!!python/object/apply:os.system ['true']", "run.yaml: "),
        (yaml.safe_dump({**SPEC, "trian": {}}), "trian"),
        (yaml.safe_dump({**SPEC, "train": {"epochs": 0}}), "train.epochs"),
    ],
)
def test_a_spec_that_is_none_is_refused_with_the_name_of_the_field(folder, text, words):
    (folder / "run.yaml").write_text(text, "utf-8")
    done = trainer(folder)
    assert done.returncode == EXIT_SETUP
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_other_places_than_this_machine_are_refused(folder):
    assert "file://" in trainer("s3://bucket/job").stderr


def test_j23_an_edited_spec_is_refused_and_the_job_told_why(folder, job):
    sha256 = job.write_spec(SPEC)
    job.write_control(Control(attempt=3, spec_sha256=sha256))
    (folder / "run.yaml").write_text(yaml.safe_dump({**SPEC, "seed": 1}), "utf-8")
    assert trainer(folder).returncode == 0
    status = job.attempt(3).status()
    assert status.state == "failed"
    assert status.failure.code == "spec_tampered"


def test_the_second_trainer_of_an_attempt_leaves_it_alone(folder, job):
    pin = {"id": "ds_1", "url": "file:///nowhere", "sha256": "0" * 64}
    base = {"id": "luthier/tiny", "revision": "1", "url": "luthier:tiny"}
    sha256 = job.write_spec({**SPEC, "sources": {"dataset": pin, "base": base}})
    job.write_control(Control(attempt=1, spec_sha256=sha256))
    assert job.attempt(1).own({"pid": 1})
    assert trainer(folder).returncode == EXIT_FENCED
    assert list(job.storage.names("attempts")) == ["attempts/1/owner.json"]


def test_a_submitted_run_without_pinned_sources_is_refused(folder, job):
    job.write_control(Control(attempt=1, spec_sha256=job.write_spec(SPEC)))
    done = trainer(folder)
    assert done.returncode == EXIT_SETUP
    assert "no `sources`" in done.stderr


def complete(job, attempt: int, step: int):
    manifest = Manifest(step=step, files={})
    name = job.attempt(attempt).name("checkpoints", checkpoint_folder(step), "COMPLETE.json")
    job.storage.write(name, manifest.model_dump_json().encode())
    return next(ref for ref in job.attempt(attempt).checkpoints() if ref.step == step)


def test_the_supervisors_choice_comes_first_and_then_what_is_older(job):
    sha256 = job.write_spec(SPEC)
    first, second, third = complete(job, 1, 10), complete(job, 1, 20), complete(job, 2, 30)
    job.write_control(Control(attempt=3, spec_sha256=sha256, resume_from=second))
    assert resume_candidates(open_run(job)) == [second, first]
    job.write_control(Control(attempt=3, spec_sha256=sha256))
    assert resume_candidates(open_run(job)) == []
    assert third.step == 30


@pytest.mark.parametrize(("before", "goes_on"), [("preempted", True), ("failed", True), ("succeeded", False)])
def test_a_run_by_hand_goes_on_unless_the_one_before_succeeded(job, before, goes_on):
    job.write_spec(SPEC)
    ref = complete(job, 4, 10)
    job.attempt(4).write_status(AttemptStatus(attempt=4, state=before))
    opened = open_run(job)
    assert opened.number == 5
    assert resume_candidates(opened) == ([ref] if goes_on else [])


def test_yaml_and_json_are_both_read():
    assert read_spec(b"base_model: luthier/tiny\ndataset: a.jsonl\n") == read_spec(
        b'{"base_model": "luthier/tiny", "dataset": "a.jsonl"}'
    )


def test_addresses_are_paths_or_file_urls():
    assert local_path("file:///a/b%20c") == Path("/a/b c")
    assert local_path("some/folder") == Path("some/folder")
