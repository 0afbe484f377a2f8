"""The round that takes jobs on, once the data that they wait for was checked."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.server.rounds import rounds
from luthier.wiring import Platform

_PAUSE_S = 0.5
"""A query on an index that finds nothing, mostly: a waiting job should not wait for its round."""


def admitting(platform: Platform, pause_s: float = _PAUSE_S) -> AbstractContextManager[None]:
    """Look for such jobs while the block runs. Several servers may do so on one data folder."""
    return rounds("checked-jobs", platform.jobs.unchecked.round, pause_s)
