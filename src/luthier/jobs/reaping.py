"""Whose heartbeat stands still. By the reaper's own monotonic clock, and only while it can read the database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Beat:
    """A running job as the reaper sees it."""

    job_id: str
    attempt: int
    owner: str
    beat_seq: int


class Stillness:
    """How long each heartbeat has stood still.

    Only the time between two looks counts, and no pause between them counts as more than `longest_gap_s`: after an outage
    of the database, or a sleep of the whole machine, everybody gets the chance to beat again before anybody is reaped.
    """

    def __init__(self, reap_after_s: float, longest_gap_s: float) -> None:
        self._reap_after_s = reap_after_s
        self._longest_gap_s = longest_gap_s
        self._still: dict[Beat, float] = {}
        self._looked_at: float | None = None

    def look(self, beats: Iterable[Beat], monotonic_s: float) -> set[str]:
        """The jobs whose heartbeat has stood still for too long. Call it after each read that succeeded."""
        gap = 0.0 if self._looked_at is None else min(monotonic_s - self._looked_at, self._longest_gap_s)
        self._looked_at = monotonic_s
        # A beat that moved is another key, so it starts from 0 again.
        self._still = {beat: self._still[beat] + gap if beat in self._still else 0.0 for beat in beats}
        return {beat.job_id for beat, seconds in self._still.items() if seconds >= self._reap_after_s}
