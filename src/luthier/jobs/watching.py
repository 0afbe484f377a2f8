"""What a supervisor knows about the jobs that it runs, and about the processes that train them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from luthier.billing.types import Segment
from luthier.jobs.asking import Asking
from luthier.jobs.directory import LAST_WORDS, AttemptStatus, JobDirectory
from luthier.jobs.metering import Meter, ProcessTime
from luthier.jobs.queue import Held
from luthier.jobs.rules import Wish
from luthier.jobs.types import Taken


@dataclass
class Process:
    """A trainer, for one job or for several."""

    time: ProcessTime | None
    """None where another supervisor started it: what that one did not bill is a gift."""
    handle: str | None = None
    terminated: bool = False

    def once(self) -> bool:
        """Whether SIGTERM may be sent: the first time only. A second one would cut the saving short."""
        first, self.terminated = not self.terminated, True
        return first


@dataclass
class Watched:
    """A job that this supervisor runs."""

    held: Held
    here: JobDirectory
    process: Process
    meter: Meter | None
    wish: Wish | None
    beat_at: float
    status: AttemptStatus | None = None
    reported: AttemptStatus | None = None
    asking: Asking = field(default_factory=Asking)
    exit_status: int | None = None
    ended: bool = False
    shared: bool = False
    """Whether others began in its process."""
    not_before: float = float("-inf")
    surprised_at: float | None = None
    """Since when its end meets an error that nobody foresaw."""

    @property
    def job_id(self) -> str:
        return self.held.fence.job_id

    @property
    def alone_s(self) -> float | None:
        """Seconds that it was trained, where it was alone all that time and in its first attempt."""
        meter = self.meter
        whole = meter is not None and self.held.fence.attempt == 1 and meter.total_ms == meter.elapsed_ms
        return meter.total_ms / 1000 if meter is not None and whole else None

    @property
    def took(self) -> Taken | None:
        """For the next estimate, under the same condition."""
        seconds, memory = self.alone_s, self.status.peak_memory_bytes if self.status is not None else None
        return None if seconds is None else Taken(seconds=seconds, memory_bytes=memory)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All usage that must be sent."""
        return () if self.meter is None else self.meter.segments

    @property
    def said_last_word(self) -> bool:
        return self.status is not None and self.status.state in LAST_WORDS

    def look(self) -> None:
        """Read what its trainer says."""
        self.status = self.here.attempt(self.held.fence.attempt).status() or self.status
        if self.status is not None and self.process.time is not None:
            resumed = self.status.resumed_from is not None
            self.process.time.trained(self.job_id, self.status.tokens_seen, resumed=resumed)

    def mates(self, others: Iterable[Watched]) -> list[Watched]:
        """Who else is in its process."""
        return [other for other in others if other.process is self.process and other is not self and not other.ended]

    def is_alone(self, others: Iterable[Watched]) -> bool:
        """Whether its process may be ended for it: nobody else needs it any more."""
        return not any(mate.wish != "cancel" and not mate.said_last_word for mate in self.mates(others))
