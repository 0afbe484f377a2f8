"""Trainers as child processes on this machine.

A trainer gets the read end of a pipe as its standard input and a session of its own. It saves and exits when the pipe ends:
by `close`, or because this process died in any way. Nothing here runs between fork and exec, so threads are no danger.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from luthier.errors import Unavailable
from luthier.seams import Launch

_ENDED_UNSEEN = -9
_POLL_S = 0.02
_KILL_WAIT_S = 10.0
_SAVE_S = 600
COMMAND = (sys.executable, "-P", "-m", "luthier.training")
"""-P: whatever lies in the working directory is no module of ours."""


@dataclass
class _Child:
    pid: int
    pipe: int
    status: int | None = None


class LocalExecutor:
    """One process a launch. A handle is `pid:start time`, so that a reused pid is never taken for ours."""

    def __init__(self, root: Path, environment: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        self._root = root
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._command = tuple(command)
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()

    def start(self, launch: Launch) -> str:
        """Start and return a handle at once. Raises: Unavailable."""
        arguments = [*launch.job_urls, "--bases", launch.bases_url]
        if launch.processes == 1:
            return self.spawn(arguments, launch.log_path)
        return self._spawn([*torchrun(launch.processes), *arguments], launch.log_path, _of_each(launch.processes))

    def spawn(self, arguments: Sequence[str], log_path: str) -> str:
        """Start the command with these arguments and a pipe. Returns its handle. Raises: Unavailable."""
        return self._spawn([*self._command, *arguments], log_path, {})

    def _spawn(self, words: Sequence[str], log_path: str, environment: Mapping[str, str]) -> str:
        command = [*words, "--parent-pipe", "0"]
        output = self._open_log(log_path)
        read_end, write_end = os.pipe()  # neither is inherited by other children
        moves = [(os.POSIX_SPAWN_DUP2, read_end, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                {**environment, **self._environment},
                file_actions=moves,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these, and children would inherit that
            )
        except OSError as error:
            os.close(write_end)
            raise Unavailable("The trainer process could not be started.", hint="Try again when the machine has room.") from error
        finally:
            os.close(read_end)
            os.close(output)
        handle = f"{pid}:{_started_at(pid)}"
        with self._lock:
            self._children[handle] = _Child(pid, write_end)
        return handle

    def log(self, log_path: str) -> Path:
        """The file that takes the output of a process. It is there, and can be written. Raises: OSError."""
        os.close(self._open_log(log_path))
        return (self._root / log_path).resolve()

    def tell(self, handle: str, line: bytes) -> bool:
        """Write a line into the pipe of a process that we started; False where nobody reads it any more."""
        if self.poll(handle) is not None:
            return False
        with self._lock:
            child = self._children.get(handle)
            if child is None or child.pipe < 0:
                return False
            try:
                return os.write(child.pipe, line) == len(line)
            except BrokenPipeError:
                return False

    def forget(self, handle: str) -> None:
        """Drop what is known of a process that has ended, and that nobody will ask about again."""
        with self._lock:
            child = self._children.get(handle)
            if child is not None and child.status is not None:
                del self._children[handle]

    def poll(self, handle: str) -> int | None:
        """None while it runs, else its exit status (negative = the signal). One that another process started is seen too;
        how that ended nobody knows: -9."""
        with self._lock:
            child = self._children.get(handle)
            if child is None:
                return None if _running_pid(handle) is not None else _ENDED_UNSEEN
            if child.status is None:
                self._look(child)
            return child.status

    def terminate(self, handle: str) -> None:
        """Ask it to save and exit (SIGTERM). Its own children are its own business."""
        with self._lock:
            pid = self._pid(handle)
            if pid is not None:
                os.kill(pid, signal.SIGTERM)

    def kill(self, handle: str) -> None:
        """End it and everything it started, now. Returns when it is gone."""
        with self._lock:
            pid = self._pid(handle)
            if pid is not None:
                _kill_group(pid)
        deadline = time.monotonic() + _KILL_WAIT_S
        while self.poll(handle) is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def tend(self) -> None:
        """Nothing is kept ready here; `warm.py` does that."""

    def close(self) -> None:
        """Let go of everything: what still runs saves and exits by itself (its pipe closes)."""
        with self._lock:
            for child in self._children.values():
                self._let_go(child)

    def held_bytes(self, handle: str) -> int:
        """Memory that a process holds; 0 for one that has ended."""
        pid = _running_pid(handle)
        try:
            return 0 if pid is None else int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _open_log(self, log_path: str) -> int:
        log = self._root / log_path
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _pid(self, handle: str) -> int | None:
        """The process to signal, or None where it has ended. A child of ours keeps its pid until it was waited for."""
        child = self._children.get(handle)
        if child is None:
            return _running_pid(handle)
        return child.pid if child.status is None else None

    def _look(self, child: _Child) -> None:
        if hasattr(os, "waitid"):  # everywhere but on older macOS: look without freeing the pid, which names the group too
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            _kill_group(child.pid)  # what the trainer started must not outlive it
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == child.pid:
            child.status = os.waitstatus_to_exitcode(status)
            self._let_go(child)

    @staticmethod
    def _let_go(child: _Child) -> None:
        if child.pipe >= 0:
            os.close(child.pipe)
            child.pipe = -1


def torchrun(processes: int) -> tuple[str, ...]:
    """The command that starts a trainer in so many processes of this machine. When it is asked to end, it lets them save."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return (*COMMAND[:-1], *launcher, "--shutdown-timeout", str(_SAVE_S), *COMMAND[-2:])


def _of_each(processes: int) -> dict[str, str]:
    """The environment of processes that share this machine; the launcher does not pass on -P."""
    return {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return


def _running_pid(handle: str) -> int | None:
    """The pid of a process that another process of ours started, if it still runs and is the same one."""
    pid, _, started_at = handle.partition(":")
    if not (pid.isdecimal() and started_at) or _started_at(int(pid)) != started_at:
        return None
    return int(pid)


def _started_at(pid: int) -> str:
    """When a process started, in a form that does not move with the wall clock; empty for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # clock ticks since boot
    except (FileNotFoundError, ProcessLookupError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""
