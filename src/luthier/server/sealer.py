"""The round that seals the audit log, beside the API and in each supervisor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial

from luthier.accounts.audit import Audit
from luthier.server.rounds import rounds

_PAUSE_S = 2.0
_AFTER = timedelta(seconds=2.5)


def sealing(audit: Audit, *, second: bool = False) -> AbstractContextManager[None]:
    """Seal every two seconds while the block runs; what is left then, `Audit.close` seals.

    Several may run on one data folder: a row is sealed once. A `second` one takes what the first has left for longer than its
    round. The API is that one: hashing keeps its interpreter busy, and whoever holds the write lock waits for a turn of the
    interpreter at each statement.
    """
    return rounds("audit-sealer", partial(audit.keep, patience=_AFTER if second else timedelta(0)), _PAUSE_S)
