"""The thread that removes what waits for nobody any more: rejected files after a day, uploads that nobody goes on with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

from luthier.errors import LuthierError
from luthier.wiring import Platform

_LOG = logging.getLogger("luthier.sweeper")
_PAUSE_S = 15 * 60.0


@contextmanager
def sweeping(platform: Platform, pause_s: float = _PAUSE_S) -> Generator[None]:
    """Sweep every quarter of an hour while the block runs. Several may do so on one data folder."""
    stopping = threading.Event()
    thread = threading.Thread(target=_sweep, args=(platform, pause_s, stopping), name="sweeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _sweep(platform: Platform, pause_s: float, stopping: threading.Event) -> None:
    while not stopping.wait(pause_s):
        try:
            platform.datasets.sweep()
            platform.uploads.sweep()
        except LuthierError as error:  # a busy database: the next round is soon
            _LOG.warning("what is old could not be removed: %s", error)
