"""Trainers that are kept ready: who gets them, how many there are, how long they live, and what they may hold."""

import os
import signal
from dataclasses import replace

import pytest
from tests.backends.test_executors import Local, ended, launch, wait_for

from luthier.backends.executors.warm import LOG_PATH, Keep, WarmExecutor

GIB = 2**30


class Stage:
    """Real processes of a script, on a machine whose time and memory the test says."""

    def __init__(self, folder, keep: Keep) -> None:
        self.folder = folder
        self.local = Local(folder)
        self.now_s = 0.0
        self.free = 100 * GIB
        self.executor = WarmExecutor(self.local.executor, keep, lambda: self.free, lambda: self.now_s)

    def train(self, act: str = "exit-0", log: str = "jobs/x/attempts/1/job.log") -> str:
        return self.executor.start(replace(launch(act), log_path=log))

    def after(self, seconds: float) -> list[str]:
        """Who is ready when so much time has passed."""
        self.now_s += seconds
        self.executor.tend()
        return self.executor.idle

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(count: int = 1, idle_s: float = 600, memory_bytes: int = GIB) -> Stage:
        made.append(Stage(tmp_path, Keep(count, idle_s, memory_bytes)))
        return made[-1]

    yield make
    for each in made:
        each.executor.close()


def pid(handle: str) -> int:
    return int(handle.partition(":")[0])


def test_nothing_is_kept_ready_before_somebody_trains(stage):
    assert stage().after(10) == []


def test_the_next_launch_goes_to_the_process_that_waits(stage):
    here = stage()
    first = here.train()
    (waits,) = here.after(5)
    assert waits != first
    assert here.train("exit-3", log="second.log") == waits
    assert ended(here.executor, waits) == 3
    assert here.text("second.log") == "hello exit-3\n"
    assert "hello" not in here.text(LOG_PATH)


def test_a_launch_has_the_machine_to_itself_until_its_first_step(stage):
    here = stage()
    here.train()
    assert here.after(4.9) == []
    assert len(here.after(0.1)) == 1
    here.train()  # that one was ready, and is sooner there
    assert here.after(0.9) == []
    assert len(here.after(0.1)) == 1


def test_a_process_takes_one_launch_and_another_one_is_made_ready(stage):
    here = stage()
    here.train()
    (second,) = here.after(5)
    assert here.train("wait") == second
    (third,) = here.after(5)
    assert third != second
    assert here.train() == third


def test_the_one_that_waits_is_told_which_job_came_last_and_what_it_may_hold(stage, tmp_path):
    here = stage(memory_bytes=700 * 2**20)
    (tmp_path / "trainer.py").write_text("import sys; print(*sys.argv[1:]); sys.stdin.read()")
    here.train("exit-0")
    here.after(5)
    wait_for(lambda: here.text(LOG_PATH).count("\n") == 1)
    expected = "--warm --like file:///jobs/exit-0 --bases file:///bases --max-memory-mb 700 --parent-pipe 0\n"
    assert here.text(LOG_PATH) == expected


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_are_kept_as_the_setting_says(stage, count):
    here = stage(count)
    here.train()
    for _ in range(5):
        here.after(5)
    assert len(here.executor.idle) == count


def test_who_waits_too_long_ends_and_comes_back_only_after_a_launch(stage):
    here = stage(idle_s=60)
    here.train()
    (waits,) = here.after(5)
    assert here.after(59) == [waits]
    assert here.after(1) == []
    assert ended(here.executor, waits) == -signal.SIGTERM
    assert here.after(10) == []
    assert here.train() != waits
    assert len(here.after(5)) == 1


def test_a_launch_long_ago_makes_nobody_ready(stage):
    here = stage(idle_s=60)
    here.free = GIB
    here.train()
    assert here.after(65) == []
    here.free = 100 * GIB
    assert here.after(1) == []


def test_none_starts_where_memory_is_short_and_those_that_wait_give_theirs_back(stage):
    here = stage(memory_bytes=GIB)
    here.free = 2 * GIB - 1
    here.train()
    assert here.after(5) == []
    here.free = 2 * GIB
    (waits,) = here.after(1)
    here.free = GIB
    assert here.after(1) == [waits]
    here.free = GIB - 1
    assert here.after(1) == []
    assert ended(here.executor, waits) == -signal.SIGTERM


def test_who_holds_more_than_it_may_ends_when_it_has_loaded(stage):
    here = stage(memory_bytes=2**20)  # no interpreter is so small
    here.train()
    (waits,) = here.after(5)
    wait_for(lambda: "waits" in here.text(LOG_PATH))
    assert here.after(29) == [waits]
    assert here.after(1) == []


@pytest.mark.parametrize("noticed", [True, False])
def test_one_that_ended_by_itself_is_passed_over_and_not_started_again_and_again(stage, noticed):
    here = stage()
    here.train()
    (waits,) = here.after(5)
    os.kill(pid(waits), signal.SIGKILL)
    if noticed:
        wait_for(lambda: here.after(0.1) == [])
        assert [here.after(5) for _ in range(3)] == [[]] * 3
    else:
        wait_for(lambda: here.executor.poll(waits) is not None)
    handle = here.train("exit-4")
    assert handle != waits
    assert ended(here.executor, handle) == 4


def test_a_log_that_cannot_be_written_is_told_before_the_launch_is_handed_over(stage, tmp_path):
    here = stage()
    here.train()
    (waits,) = here.after(5)
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"link\.log"):
        here.train(log="link.log")
    assert here.executor.idle == [waits]


def test_letting_go_ends_those_that_wait(stage):
    here = stage(2)
    here.train()
    here.after(5)
    handles = here.after(1)
    assert len(handles) == 2
    here.executor.close()
    assert here.executor.idle == []
    assert {ended(here.executor, handle) for handle in handles} <= {0, -signal.SIGTERM}
    assert here.after(5) == []
