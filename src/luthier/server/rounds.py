"""Work that a thread repeats beside the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from luthier.errors import LuthierError

_LOG = logging.getLogger("luthier.server")


@contextmanager
def rounds(name: str, work: Callable[[], object], pause_s: float) -> Generator[None]:
    """Call `work` every `pause_s` seconds while the block runs, in a thread of this name. What a round could not do, because the
    database is busy or the disk is full, is logged and left to the next one; so is what nobody foresaw."""
    stopping = threading.Event()

    def keep() -> None:
        while not stopping.wait(pause_s):
            try:
                work()
            except LuthierError as error:
                _LOG.warning("%s: this round failed: %s", name, error)
            except Exception:  # noqa: BLE001  # the edge of the thread: if it fell, its work would be done no more, and nobody told
                _LOG.exception("%s: this round failed", name)

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
