"""The round that seals the audit log, beside the API and in each supervisor."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.accounts.audit import Audit
from luthier.server.rounds import rounds

_PAUSE_S = 2.0


def sealing(audit: Audit) -> AbstractContextManager[None]:
    """Seal every two seconds while the block runs; what is left then, `Audit.close` seals.

    Several may run on one data folder: a row is sealed once.
    """
    return rounds("audit-sealer", audit.keep, _PAUSE_S)
