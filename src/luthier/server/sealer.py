"""The thread that seals the audit log, beside the API and in each supervisor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

from luthier.accounts.audit import Audit
from luthier.errors import LuthierError

_LOG = logging.getLogger("luthier.audit")
_PAUSE_S = 2.0


@contextmanager
def sealing(audit: Audit) -> Generator[None]:
    """Seal every two seconds while the block runs; what is left then, `Audit.close` seals.

    Several may run on one data folder: a row is sealed once.
    """
    stopping = threading.Event()
    thread = threading.Thread(target=_keep, args=(audit, stopping), name="audit-sealer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _keep(audit: Audit, stopping: threading.Event) -> None:
    while not stopping.wait(_PAUSE_S):
        try:
            audit.keep()
        except LuthierError as error:  # a busy database, a full disk: the rows wait for the next round
            _LOG.warning("the audit log could not be sealed: %s", error)
