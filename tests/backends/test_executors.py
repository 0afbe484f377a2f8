"""One contract for every executor, and what only real processes can show."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.backends.executors.local import LocalExecutor
from luthier.backends.executors.memory import MemoryExecutor
from luthier.backends.executors.warm import Keep, WarmExecutor
from luthier.errors import Unavailable
from luthier.seams import Launch

# A trainer in few words. What it does is the last part of its address; it ends when its pipe does, as the real one.
SCRIPT = """
import json, os, signal, subprocess, sys, time
urls = sys.argv[1:]
if urls[0] == "--warm":
    print("waits", os.getpid(), flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    urls = json.loads(line)["jobs"]
    log = os.open(json.loads(line)["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
act = urls[0].rsplit("/", 1)[-1]
print("hello", act, flush=True)
if act.startswith("exit-"):
    sys.exit(int(act.removeprefix("exit-")))
if act == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if act == "family":
    print("child", subprocess.Popen(["sleep", "60"]).pid, flush=True)
print("ready", os.getpid(), flush=True)
os.read(0, 1)
if act == "deaf":
    time.sleep(60)
"""


def acts(run) -> int:
    """The same trainer as a function."""
    act = run.launch.job_urls[0].rsplit("/", 1)[-1]
    if act.startswith("exit-"):
        return int(act.removeprefix("exit-"))
    run.stopping.wait(30)
    return 0


class Memory:
    def __init__(self, folder: Path) -> None:
        self.executor = MemoryExecutor(acts)

    def ready(self, handle: str) -> None:
        pass


class Local:
    def __init__(self, folder: Path) -> None:
        script = folder / "trainer.py"
        script.write_text(SCRIPT)
        environment = {"PATH": os.environ["PATH"], "MARK": "yes"}
        self.executor = LocalExecutor(folder, environment, [sys.executable, str(script)])
        self.log = folder / "jobs/x/attempts/1/job.log"

    def ready(self, handle: str) -> None:
        wait_for(lambda: "ready" in self.log.read_text())


class Warm(Local):
    """The first launch goes to a process that waited for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.executor = WarmExecutor(self.executor, Keep(1, 600, 2**30), lambda: 2**40, iter(range(0, 10**6, 10)).__next__)
        self.executor.start(replace(launch("exit-0"), log_path="first.log"))
        self.executor.tend()
        (self.waits,) = self.executor.idle


@pytest.fixture(params=[Memory, Local, Warm], ids=["memory", "local", "warm"])
def case(request, tmp_path):
    case = request.param(tmp_path)
    yield case
    case.executor.close()


@pytest.fixture
def local(tmp_path):
    case = Local(tmp_path)
    yield case
    case.executor.close()


def launch(act: str) -> Launch:
    return Launch(
        job_urls=(f"file:///jobs/{act}",), log_path="jobs/x/attempts/1/job.log", bases_url="file:///bases", label="job_x-1"
    )


def wait_for(true, seconds: float = 20) -> None:
    """Other processes have a clock of their own: look until it is so."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        threading.Event().wait(0.01)


def ended(executor, handle: str) -> int:
    wait_for(lambda: executor.poll(handle) is not None)
    return executor.poll(handle)


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 75, 78])
def test_the_exit_status_is_told_again_and_again(case, status):
    handle = case.executor.start(launch(f"exit-{status}"))
    assert [ended(case.executor, handle) for _ in range(3)] == [status] * 3


def test_several_jobs_are_one_process_with_one_end(case):
    several = replace(launch("exit-0"), job_urls=("file:///jobs/exit-3", "file:///jobs/wait", "file:///jobs/deaf"))
    assert ended(case.executor, case.executor.start(several)) == 3


def test_what_runs_runs_until_it_is_asked_to_end(case):
    handle = case.executor.start(launch("wait"))
    case.ready(handle)
    assert case.executor.poll(handle) is None
    case.executor.terminate(handle)
    assert ended(case.executor, handle) == 0


def test_what_was_killed_is_gone_when_the_call_returns(case):
    handle = case.executor.start(launch("wait"))
    case.executor.kill(handle)
    assert case.executor.poll(handle) == -9
    case.executor.kill(handle)
    case.executor.terminate(handle)


@pytest.mark.parametrize("handle", ["", "nothing", "1:", "999999999:1", "x:y"])
def test_an_unknown_handle_has_ended_and_is_never_signalled(case, handle):
    assert case.executor.poll(handle) == -9
    case.executor.terminate(handle)
    case.executor.kill(handle)


def test_handles_differ(case):
    handles = [case.executor.start(launch("exit-0")) for _ in range(5)]
    assert len(set(handles)) == 5


def test_what_is_kept_ready_is_seen_to_while_others_run(case):
    handle = case.executor.start(launch("wait"))
    case.ready(handle)
    for _ in range(3):
        case.executor.tend()
    assert case.executor.poll(handle) is None


def test_letting_go_makes_what_still_runs_end_by_itself(case):
    handle = case.executor.start(launch("wait"))
    case.ready(handle)
    case.executor.close()
    assert ended(case.executor, handle) == 0


# -- processes ---------------------------------------------------------------------------------------------------------


def test_the_trainer_gets_its_address_its_log_and_no_more_of_the_environment_than_it_was_given(local, tmp_path):
    (tmp_path / "trainer.py").write_text("import os, sys; print(sys.argv[1:], sorted(os.environ))")
    handle = local.executor.start(launch("x"))
    assert ended(local.executor, handle) == 0
    arguments = ["file:///jobs/x", "--bases", "file:///bases", "--parent-pipe", "0"]
    names = local.log.read_text().removeprefix(str(arguments)).strip()
    assert local.log.read_text().startswith(str(arguments))
    assert "'MARK'" in names
    assert "HOME" not in names


def test_a_trainer_gets_the_addresses_of_all_its_jobs_in_order(local, tmp_path):
    (tmp_path / "trainer.py").write_text("import sys; print(sys.argv[1:4])")
    urls = ("file:///jobs/x", "file:///jobs/z", "file:///jobs/y")
    assert ended(local.executor, local.executor.start(replace(launch("x"), job_urls=urls))) == 0
    assert local.log.read_text().strip() == str(list(urls))


def test_a_second_attempt_does_not_overwrite_the_log(local):
    for _ in range(2):
        ended(local.executor, local.executor.start(launch("exit-0")))
    assert local.log.read_text().count("hello") == 2


def test_a_program_that_is_not_there_is_told(tmp_path):
    executor = LocalExecutor(tmp_path, {}, [str(tmp_path / "nothing")])
    with pytest.raises(Unavailable):
        executor.start(launch("x"))


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_nothing_that_a_trainer_started_outlives_it(local, how):
    handle = local.executor.start(launch("family"))
    local.ready(handle)
    child = int(local.log.read_text().split("child ")[1].split()[0])
    assert not is_gone(child)
    if how == "kill":
        local.executor.kill(handle)
    else:
        local.executor.terminate(handle)
        ended(local.executor, handle)
    wait_for(lambda: is_gone(child))


def test_who_does_not_listen_is_killed(local):
    handle = local.executor.start(launch("deaf"))
    local.ready(handle)
    local.executor.terminate(handle)
    assert local.executor.poll(handle) is None
    local.executor.kill(handle)
    assert local.executor.poll(handle) == -9


def test_a_process_of_another_start_is_known_by_pid_and_start_time(local, tmp_path):
    handle = local.executor.start(launch("wait"))
    local.ready(handle)
    other = LocalExecutor(tmp_path, {})
    assert other.poll(handle) is None
    pid, _, began = handle.partition(":")
    reused = f"{pid}:{int(began) + 1}"  # the same pid, another process
    other.kill(reused)
    other.terminate(reused)
    assert other.poll(reused) == -9
    assert local.executor.poll(handle) is None
    other.terminate(handle)
    assert ended(local.executor, handle) == 0
    assert other.poll(handle) == -9


PARENT = """
import os, sys, time
from pathlib import Path
from luthier.backends.executors.local import LocalExecutor
from luthier.seams import Launch
folder = Path(sys.argv[1])
executor = LocalExecutor(folder, {"PATH": os.environ["PATH"]}, [sys.executable, str(folder / "trainer.py")])
for number in (1, 2):
    log = f"jobs/x/attempts/{number}/job.log"
    print(executor.start(Launch(("file:///jobs/wait",), log, "file:///bases", "x")), flush=True)
time.sleep(60)
"""


def test_kill_9_of_the_supervisor_ends_all_its_trainers(local, tmp_path):
    logs = [tmp_path / f"jobs/x/attempts/{number}/job.log" for number in (1, 2)]
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        handles = [parent.stdout.readline().strip() for _ in logs]
        wait_for(lambda: all(log.exists() and "ready" in log.read_text() for log in logs))
        assert [local.executor.poll(handle) for handle in handles] == [None, None]
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: all(local.executor.poll(handle) == -9 for handle in handles))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True
