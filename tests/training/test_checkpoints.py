from dataclasses import asdict
from pathlib import Path

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.jobs.directory import CheckpointRef, JobDirectory
from luthier.training.checkpoints import Checkpoints, fetch_checkpoint, first_whole
from luthier.training.health import Best, LossWatch
from luthier.training.plan import Fixed
from luthier.training.state import BestCheckpoint, TrainState, read_state, write_state


@pytest.fixture
def job(tmp_path):
    return JobDirectory(LocalStorage(tmp_path / "job"), "")


@pytest.fixture
def checkpoints(job, tmp_path):
    workspace = tmp_path / "work"
    workspace.mkdir()
    return Checkpoints(job.attempt(1), workspace)


def fill(folder: Path) -> None:
    (folder / "adapter").write_bytes(b"weights" * 1000)
    (folder / "state").write_bytes(b"state")


def test_what_was_saved_comes_back(job, checkpoints, tmp_path):
    ref = checkpoints.save(5, fill)
    assert job.newest_checkpoint() == ref
    assert fetch_checkpoint(job, ref, tmp_path / "back")
    assert (tmp_path / "back" / "adapter").read_bytes() == b"weights" * 1000


def test_the_manifest_is_written_last(job, checkpoints):
    def torn(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        checkpoints.save(5, torn)
    assert job.newest_checkpoint() is None
    assert list(job.storage.names("attempts")) == []


def test_files_without_a_manifest_are_no_checkpoint(job, checkpoints, tmp_path):
    ref = checkpoints.save(5, fill)
    job.storage.delete("attempts/1/checkpoints/step-00000005/COMPLETE.json")
    assert job.newest_checkpoint() is None
    assert not fetch_checkpoint(job, ref, tmp_path / "back")


@pytest.mark.parametrize("file", ["adapter", "state", "COMPLETE.json"])
def test_one_flipped_byte_in_any_file_makes_the_one_before_it_count(job, checkpoints, tmp_path, file):
    older, newer = checkpoints.save(5, fill), checkpoints.save(10, fill)
    name = f"attempts/1/checkpoints/step-00000010/{file}"
    data = bytearray(job.storage.read(name))
    data[len(data) // 2] ^= 1
    job.storage.write(name, bytes(data))
    assert first_whole(job, [newer, older], tmp_path / "back") == older
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["adapter", "state"]


def test_a_missing_checkpoint_is_not_an_error(job, tmp_path):
    ref = CheckpointRef(attempt=7, step=3, sha256="0" * 64)
    assert first_whole(job, [ref], tmp_path / "back") is None


def test_later_writes_to_the_working_copy_never_reach_a_published_file(job, checkpoints):
    checkpoints.save(5, fill)
    checkpoints.save(6, lambda folder: (folder / "adapter").write_bytes(b"other"))
    assert job.storage.read("attempts/1/checkpoints/step-00000005/adapter") == b"weights" * 1000


def test_only_the_wanted_checkpoints_stay(job, checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, fill)
    checkpoints.keep_only({1, 3})
    assert [ref.step for ref in job.attempt(1).checkpoints()] == [1, 3]


def test_the_state_survives_the_disk_bit_by_bit(tmp_path):
    state = TrainState(
        Fixed(8, 4096, 2, "cpu", "fp32"),
        step=7,
        loss=0.1 + 0.2,
        loss_watch=LossWatch(first=[1 / 3], smoothed=2 / 3, above=1),
        best=Best(1e-17, 4, 2),
        best_checkpoint=BestCheckpoint(1, 4, "0" * 64),
    )
    for step in range(1, 2500):
        state.step = step
        state.see_loss(1 / step)
    write_state(tmp_path, state)
    assert asdict(read_state(tmp_path)) == asdict(state)
    assert len(state.curve) <= 1000
    assert state.curve == [(step, 1 / step) for step in range(4, 2500, 4)]
