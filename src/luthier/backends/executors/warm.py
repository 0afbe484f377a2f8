"""Trainers that are started before their job is known: torch is imported and a base is loaded when the job comes.

Such a trainer takes one launch, like any other, and ends with it. So nothing of one job or tenant can reach the next, and
for the supervisor there is no difference: one launch, one process, one exit status. The next one is started meanwhile.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.backends.executors.local import LocalExecutor
from luthier.seams import Launch

LOG_PATH = "trainers/warm.log"
_QUIET_S, _COLD_QUIET_S = 1.0, 5.0
"""How long a launch has the machine to itself before a further trainer is made ready: its first step goes first. A trainer
that was not ready must get there too."""
_LOADED_S = 30.0
"""From then on it is held to the bound of its memory."""


@dataclass(frozen=True)
class Keep:
    """How many trainers are kept ready, how long for, and what each may hold of the machine's memory."""

    count: int
    idle_s: float
    memory_bytes: int


@dataclass(frozen=True)
class _Idle:
    handle: str
    since_s: float


class WarmExecutor:
    """Local processes, of which some are ready before they are needed.

    Trainers are made ready after a launch, for jobs like it, and never without one: whoever trains nothing for `idle_s` pays
    nothing. They start where twice their memory is free, and end when less than that of one is left.
    """

    def __init__(
        self,
        local: LocalExecutor,
        keep: Keep,
        free_bytes: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._keep = keep
        self._free_bytes = free_bytes
        self._monotonic = monotonic
        self._idle: list[_Idle] = []
        self._leaving: list[str] = []
        self._like: Launch | None = None
        self._quiet_until_s = float("-inf")
        self._owed = 0
        self._lock = threading.RLock()

    @property
    def idle(self) -> list[str]:
        """Handles of the trainers that wait for a launch, the one that waits longest first."""
        with self._lock:
            return [each.handle for each in self._idle]

    def start(self, launch: Launch) -> str:
        """Start and return a handle at once. Raises: Unavailable."""
        with self._lock:
            ready = self._handed_over(launch) if launch.processes == 1 else None
            handle = ready or self._local.start(launch)
            self._like, self._owed = launch, self._keep.count
            self._quiet_until_s = self._monotonic() + (_QUIET_S if ready else _COLD_QUIET_S)
            return handle

    def tend(self) -> None:
        """End those that waited too long or whose memory is needed, and make others ready after a launch."""
        with self._lock:
            self._leaving = [handle for handle in self._leaving if not self._is_gone(handle)]
            self._idle = [each for each in self._idle if not self._is_gone(each.handle)]
            if not self._idle and not self._owed:
                return
            now_s, free = self._monotonic(), self._free_bytes()
            for each in list(self._idle):
                if free < self._keep.memory_bytes or self._waited_enough(each, now_s):
                    self._dismiss(each)
            if self._wants_another(now_s, free) and self._like is not None:
                self._make_ready(self._like, now_s)

    def poll(self, handle: str) -> int | None:
        """None while it runs, else its exit status."""
        return self._local.poll(handle)

    def terminate(self, handle: str) -> None:
        """Ask it to save and exit (SIGTERM)."""
        self._local.terminate(handle)

    def kill(self, handle: str) -> None:
        """End it and everything it started, now. Returns when it is gone."""
        self._local.kill(handle)

    def close(self) -> None:
        """Let go of everything: what waits ends, what still runs saves and exits by itself."""
        with self._lock:
            self._owed = 0
            for each in list(self._idle):
                self._dismiss(each)
            self._local.close()

    def _handed_over(self, launch: Launch) -> str | None:
        """The handle of a trainer that was ready and has this launch now. One that ended in the meantime is passed over."""
        if not self._idle:
            return None
        log = self._local.log(launch.log_path)
        order = json.dumps({"jobs": launch.job_urls, "log": os.fspath(log)}) + "\n"
        while self._idle:
            handle = self._idle.pop(0).handle
            if self._local.tell(handle, order.encode()):
                return handle
        return None

    def _waited_enough(self, idle: _Idle, now_s: float) -> bool:
        waited_s = now_s - idle.since_s
        if waited_s >= self._keep.idle_s:
            return True
        # Weights come from files that are mapped: while it loads them it holds both.
        return waited_s >= _LOADED_S and self._local.held_bytes(idle.handle) > self._keep.memory_bytes

    def _wants_another(self, now_s: float, free_bytes: int) -> bool:
        return (
            self._owed > 0
            and len(self._idle) < self._keep.count
            and self._quiet_until_s <= now_s < self._quiet_until_s + self._keep.idle_s
            and free_bytes >= 2 * self._keep.memory_bytes
        )

    def _make_ready(self, like: Launch, now_s: float) -> None:
        # One a launch and place: a trainer that cannot even wait is not started again and again.
        self._owed -= 1
        most = str(self._keep.memory_bytes // 2**20)
        handle = self._local.spawn(
            ["--warm", "--like", like.job_urls[0], "--bases", like.bases_url, "--max-memory-mb", most], LOG_PATH
        )
        self._idle.append(_Idle(handle, now_s))

    def _dismiss(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        self._local.terminate(idle.handle)  # it has nothing to save, and ends at once
        self._leaving.append(idle.handle)

    def _is_gone(self, handle: str) -> bool:
        if self._local.poll(handle) is None:
            return False
        self._local.forget(handle)
        return True
