"""The round that writes down sampled requests and judges them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.server.rounds import rounds
from luthier.wiring import Platform

_PAUSE_S = 5.0


def observing(platform: Platform, pause_s: float = _PAUSE_S) -> AbstractContextManager[None]:
    """Look for drift every few seconds while the block runs. What is sampled after the last round is lost."""
    return rounds("drift", platform.drift.round, pause_s)
