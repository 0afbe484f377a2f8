"""Slow work that is done once for all who wait for it: the start of the engine process, the loading of a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from luthier.errors import ModelLoading


class Underway:
    """Any thread may ask. Whoever has waited `wait_s` is told to come again; the work goes on meanwhile."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._futures: dict[Hashable, Future[None]] = {}

    def done(self, key: Hashable, work: Callable[[], Any]) -> None:
        """Wait for the work of this name, which is begun unless somebody has. Raises: ModelLoading; what the work raises."""
        with self._lock:
            future = self._futures.get(key)
            if future is None:
                self._futures[key] = future = Future()
                threading.Thread(target=self._do, args=(key, future, work), name="engine-loading", daemon=True).start()
        try:
            future.result(self._wait_s)
        except TimeoutError:
            if future.done():  # the work's own
                raise
            raise ModelLoading from None

    def _do(self, key: Hashable, future: Future[None], work: Callable[[], Any]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001  # handed to everybody who waits for it
            error = raised
        with self._lock:
            del self._futures[key]
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
