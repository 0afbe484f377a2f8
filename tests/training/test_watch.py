import os
import threading

import pytest

from luthier.backends.storage.local import LocalStorage
from luthier.errors import SetupError
from luthier.jobs.directory import EXIT_FENCED, JobDirectory
from luthier.seams import Storage
from luthier.training.failures import Fenced, Stopping
from luthier.training.watch import FencedStorage, Watch, _Edges, watching


@pytest.fixture
def job(tmp_path):
    return JobDirectory(LocalStorage(tmp_path), "")


def test_without_control_json_nobody_interrupts(job):
    watch = Watch(job.control, 1)
    watch.poll()
    watch.check()
    assert watch.wish is None


@pytest.mark.parametrize("want", ["stop", "pause"])
def test_a_wish_of_the_platform_is_seen_at_the_next_look(job, control, want):
    watch = Watch(job.control, 3)
    job.write_control(control(attempt=3, want=want))
    watch.poll()
    with pytest.raises(Stopping, match="stopped"):
        watch.check()


def test_another_attempt_fences_this_one(job, control):
    watch = Watch(job.control, 3)
    job.write_control(control(attempt=4))
    watch.poll()
    with pytest.raises(Fenced):
        watch.check()


def test_a_control_file_that_cannot_be_read_changes_nothing(job):
    watch = Watch(job.control, 3)
    job.storage.write("control.json", b"{")
    watch.poll()
    watch.check()


def test_a_stop_is_not_overwritten_by_a_preemption():
    watch = Watch(lambda: None, 1)
    watch.ask("stopped")
    watch.ask("preempted")
    assert watch.wish == "stopped"


def test_the_fenced_storage_reads_and_refuses_every_kind_of_write(job, control, tmp_path):
    watch = Watch(job.control, 1)
    storage: Storage = FencedStorage(job.storage, watch)
    storage.write("a", b"1")
    job.write_control(control(attempt=2))
    watch.poll()
    source = tmp_path / "source"
    source.write_bytes(b"2")
    for write in (
        lambda: storage.write("a", b"2"),
        lambda: storage.create("b", b"2"),
        lambda: storage.append("a", b"2"),
        lambda: storage.put_file("a", source),
        lambda: storage.delete("a"),
    ):
        with pytest.raises(Fenced):
            write()
    assert storage.read("a") == b"1"
    assert (storage.size("a"), storage.size("b")) == (1, None)


def test_a_process_that_was_frozen_looks_before_it_writes(job, control):
    watch = Watch(job.control, 1, poll_s=-1.0)  # any time since the last look is too long
    job.write_control(control(attempt=2))
    with pytest.raises(Fenced):
        FencedStorage(job.storage, watch).write("a", b"1")


def test_a_fenced_process_that_hangs_is_ended(job, control, monkeypatch):
    ended: list[int] = []
    gone = threading.Event()
    monkeypatch.setattr("luthier.training.watch._FENCED_GRACE_S", 0.01)
    watch = Watch(job.control, 1, poll_s=0.01, exit_now=lambda status: (ended.append(status), gone.set()))
    job.write_control(control(attempt=2))
    threading.Thread(target=watch._poll_forever, daemon=True).start()
    assert gone.wait(10)
    assert ended == [EXIT_FENCED]


def test_the_end_of_the_parents_pipe_asks_for_an_orderly_end():
    reading, writing = os.pipe()
    watch = Watch(lambda: None, 1)
    edges = _Edges([watch], exit_now=lambda status: None)
    follower = threading.Thread(target=edges.wait_for_end_of_pipe, args=(reading,))
    follower.start()
    os.write(writing, b"still here")
    assert watch.wish is None
    os.close(writing)
    follower.join(10)
    os.close(reading)
    assert watch.wish == "preempted"


def test_a_pipe_that_is_none_is_refused(job):
    watch = Watch(job.control, 1)
    with pytest.raises(SetupError, match="--parent-pipe 987 is not an open file descriptor"):
        watching([watch], 987)
