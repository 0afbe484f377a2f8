"""One thread that does one thing after another. It starts with the first task and ends when it is closed."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Background:
    """Calls `work` with each added id, in order. A call that fails is logged; the next one follows."""

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._tasks: queue.Queue[str | None] = queue.Queue()
        self._changed = threading.Condition()
        self._unfinished = 0
        self._thread: threading.Thread | None = None

    def add(self, task: str) -> None:
        """Do this when all that was added before is done."""
        with self._changed:
            self._unfinished += 1
            if self._thread is None:
                # A daemon: a process that ends without `close` must not wait for a check; `recover` takes it up again.
                self._thread = threading.Thread(target=self._run, name="dataset-checks", daemon=True)
                self._thread.start()
        self._tasks.put(task)

    def settle(self, timeout_s: float | None) -> None:
        """Wait until all is done. Raises: TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._unfinished == 0, timeout_s):
                raise TimeoutError(f"{self._unfinished} checks are not done")

    def close(self) -> None:
        """Drop what waits, and return when the running call has returned."""
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._work(task)
            except Exception:  # noqa: BLE001  # the thread must outlive a full disk; `recover` tries this one again
                _log.exception("checking dataset %s failed", task)
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()
