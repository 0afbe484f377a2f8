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
    database is busy or the disk is full, is logged and left to the next one."""
    stopping = threading.Event()

    def keep() -> None:
        while not stopping.wait(pause_s):
            try:
                work()
            except LuthierError as error:
                _LOG.warning("%s: this round failed: %s", name, error)

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
