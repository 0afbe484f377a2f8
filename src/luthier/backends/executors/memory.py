"""Trainers as threads of this process: the shipped fake. Passes the same contract suite as the real ones."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from luthier.errors import LuthierError, Unavailable
from luthier.seams import Launch

_ENDED_UNSEEN = -9
_CRASHED = 1
_JOIN_S = 30.0


@dataclass
class Run:
    """What a fake trainer gets. It must come to its end soon after `stopping` is set."""

    launch: Launch
    stopping: threading.Event = field(default_factory=threading.Event)
    killed: bool = False
    """It was not asked but ended: whatever it writes from now on would not have been written."""


@dataclass
class _Thread:
    run: Run
    thread: threading.Thread
    status: int | None = None


class MemoryExecutor:
    """Calls `trainer(run)` in a thread; what it returns is the exit status."""

    def __init__(self, trainer: Callable[[Run], int]) -> None:
        self._trainer = trainer
        self._threads: dict[str, _Thread] = {}
        self._numbers = itertools.count(1)
        self.refuses = False
        """Set it to see what happens when nothing can be started."""

    def start(self, launch: Launch) -> str:
        """Start and return a handle at once. Raises: Unavailable."""
        if self.refuses:
            raise Unavailable("The trainer process could not be started.", hint="Try again when the machine has room.")
        handle = f"thread-{next(self._numbers)}"
        run = Run(launch)
        thread = threading.Thread(target=self._call, args=(handle,), name=launch.label, daemon=True)
        self._threads[handle] = _Thread(run, thread)
        thread.start()
        return handle

    def poll(self, handle: str) -> int | None:
        """None while it runs, else its exit status. An unknown handle has ended: -9."""
        found = self._threads.get(handle)
        if found is None:
            return _ENDED_UNSEEN
        return None if found.thread.is_alive() and found.status is None else found.status

    def terminate(self, handle: str) -> None:
        """Ask it to save and exit."""
        if handle in self._threads:
            self._threads[handle].run.stopping.set()

    def kill(self, handle: str) -> None:
        """End it, now. Returns when it is gone."""
        found = self._threads.get(handle)
        if found is None or self.poll(handle) is not None:
            return
        found.run.killed = True
        found.run.stopping.set()
        found.thread.join(_JOIN_S)
        found.status = _ENDED_UNSEEN

    def tend(self) -> None:
        """Nothing is kept ready: a thread starts at once."""

    def close(self) -> None:
        """Let go of everything: what still runs saves and exits by itself."""
        for found in self._threads.values():
            found.run.stopping.set()

    def join(self) -> None:
        """Wait until all trainers have ended. For tests, which then need no sleep."""
        for found in list(self._threads.values()):
            found.thread.join(_JOIN_S)

    def _call(self, handle: str) -> None:
        found = self._threads[handle]
        try:
            status = self._trainer(found.run)
        except (LuthierError, ArithmeticError, LookupError, OSError, RuntimeError):
            status = _CRASHED
        found.status = _ENDED_UNSEEN if found.run.killed else status
