"""The round that carries the database's log into its file."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.database import Database
from luthier.server.rounds import rounds

_PAUSE_S = 1.0


def carrying(database: Database, pause_s: float = _PAUSE_S) -> AbstractContextManager[None]:
    """Shorten the log every second while the block runs. Several may do so on one data folder."""
    return rounds("log-carrier", database.shorten, pause_s)
