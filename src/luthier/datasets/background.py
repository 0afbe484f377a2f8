"""A few threads that do one thing after another. They start with the first task and end when they are closed."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Background:
    """Calls `work` with each added id, in order, in as many threads as are given. A call that fails is logged."""

    def __init__(self, work: Callable[[str], None], threads: int = 1) -> None:
        self._work = work
        self._tasks: queue.Queue[str | None] = queue.Queue()
        self._changed = threading.Condition()
        self._unfinished = 0
        self._wanted = threads
        self._threads: list[threading.Thread] = []

    def add(self, task: str) -> None:
        """Do this when all that was added before is done."""
        with self._changed:
            self._unfinished += 1
            if len(self._threads) < min(self._wanted, self._unfinished):
                # A daemon: a process that ends without `close` must not wait for a task; `recover` takes it up again.
                thread = threading.Thread(target=self._run, name="dataset-tasks", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._tasks.put(task)

    def settle(self, timeout_s: float | None) -> None:
        """Wait until all is done. Raises: TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._unfinished == 0, timeout_s):
                raise TimeoutError(f"{self._unfinished} tasks are not done")

    def close(self, timeout_s: float | None = None) -> None:
        """Drop what waits, and return when the running calls have returned, or do not in that time."""
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._work(task)
            except Exception:  # noqa: BLE001  # the thread must outlive a full disk; `recover` tries this one again
                _log.exception("what was to be done for dataset %s failed", task)
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()
