"""Usage, measured by a monotonic clock: a step of the wall clock moves no money."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from luthier.billing.rules import SEGMENT_MS
from luthier.billing.types import Segment


@dataclass
class Meter:
    """The usage of one attempt. `most_s` is the longest pause that counts: beyond it the supervisor itself was frozen, and
    the job counted as dead for everybody else."""

    current: Segment
    read_at_s: float
    most_s: float
    total_ms: int = 0
    _closed: list[Segment] = field(default_factory=list[Segment])

    def advance(self, now: datetime, monotonic_s: float) -> None:
        """Count the time since the last call; a segment that has grown to its full length is closed and another begun."""
        passed_ms = int(min(max(0.0, monotonic_s - self.read_at_s), self.most_s) * 1000)
        # What int() cut off is not lost: it counts in the next call, unless the pause was too long to count anyway.
        self.read_at_s = monotonic_s if monotonic_s - self.read_at_s > self.most_s else self.read_at_s + passed_ms / 1000
        self.total_ms += passed_ms
        self.current = replace(self.current, ms=self.current.ms + passed_ms)
        if self.current.ms >= SEGMENT_MS:
            self._closed.append(self.current)
            self.current = replace(self.current, seq=self.current.seq + 1, started_at=now, ms=0)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All that must be sent: the growing segment, and closed ones that no database has taken yet."""
        growing = (self.current,) if self.current.ms or not self._closed else ()
        return (*self._closed, *growing)

    def sent(self, segments: tuple[Segment, ...]) -> None:
        """The database has these."""
        self._closed = [segment for segment in self._closed if segment not in segments]
