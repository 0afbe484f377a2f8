"""The round that removes what waits for nobody any more: rejected files after a day, uploads that nobody goes on with,
copies of models that nobody asks."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.server.rounds import rounds
from luthier.wiring import Platform

_PAUSE_S = 15 * 60.0


def sweeping(platform: Platform, pause_s: float = _PAUSE_S) -> AbstractContextManager[None]:
    """Sweep every quarter of an hour while the block runs. Several may do so on one data folder."""

    def sweep() -> None:
        platform.datasets.sweep()
        platform.uploads.sweep()
        platform.registry.copies.sweep()

    return rounds("sweeper", sweep, pause_s)
