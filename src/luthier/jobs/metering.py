"""Usage, measured by a monotonic clock: a step of the wall clock moves no money. The time of a process that trains several
jobs is divided among them to the millisecond."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from luthier.billing.rules import SEGMENT_MS, shared_ms
from luthier.billing.types import Segment


@dataclass
class Meter:
    """The usage of one attempt."""

    current: Segment
    total_ms: int = 0
    """Billed: its share of the time in which it was trained."""
    elapsed_ms: int = 0
    """The time in which it was trained, whoever else was."""
    _begun_at_ms: int = 0
    _closed: list[Segment] = field(default_factory=list[Segment])

    def add(self, share_ms: int, elapsed_ms: int, now: datetime) -> None:
        """Count a share of the time that has passed; a segment of full length is closed and another begun.

        Its length is that of the time, not of the share: prices change and months end for a small share too.
        """
        self.total_ms += share_ms
        self.elapsed_ms += elapsed_ms
        self.current = replace(self.current, ms=self.current.ms + share_ms)
        if self.elapsed_ms - self._begun_at_ms >= SEGMENT_MS:
            self._closed.append(self.current)
            self.current = replace(self.current, seq=self.current.seq + 1, started_at=now, ms=0)
            self._begun_at_ms = self.elapsed_ms

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All that must be sent: the growing segment, and closed ones that no database has taken yet."""
        growing = (self.current,) if self.current.ms or not self._closed else ()
        return (*self._closed, *growing)

    def sent(self, segments: tuple[Segment, ...]) -> None:
        """The database has these."""
        self._closed = [segment for segment in self._closed if segment not in segments]


@dataclass
class _Member:
    meter: Meter
    tokens: int = 0
    divided: int = 0
    """Tokens that earlier divisions counted."""


@dataclass
class ProcessTime:
    """The time of one trainer's process. `most_s` is the longest pause that counts: beyond it the supervisor itself was
    frozen, and the job counted as dead for everybody else."""

    read_at_s: float
    most_s: float
    total_ms: int = 0
    _divided_ms: int = 0
    _members: dict[str, _Member] = field(default_factory=dict[str, _Member])

    @property
    def members(self) -> int:
        """How many jobs it trains now."""
        return len(self._members)

    def join(self, meter: Meter) -> None:
        """One more job that this process trains."""
        self._members[meter.current.job_id] = _Member(meter)

    def advance(self, monotonic_s: float) -> None:
        """Count the time since the last call."""
        passed_s = min(max(0.0, monotonic_s - self.read_at_s), self.most_s)
        # To the microsecond first: 1001.911 s - 1000 s is 1910.9999… ms. What // cuts off is not lost: it counts in the next
        # call, unless the pause was too long to count anyway.
        passed_ms = round(passed_s * 1_000_000) // 1000
        self.read_at_s = monotonic_s if monotonic_s - self.read_at_s > self.most_s else self.read_at_s + passed_ms / 1000
        self.total_ms += passed_ms

    def trained(self, job_id: str, tokens_seen: int, *, resumed: bool) -> None:
        """How far a job is. One that resumed counts from what it first says: the rest was trained by earlier attempts."""
        member = self._members.get(job_id)
        if member is None:
            return
        if resumed and member.tokens == 0:
            member.divided = tokens_seen
        member.tokens = max(member.tokens, tokens_seen)

    def divide(self, now: datetime) -> None:
        """Give what has passed since the last time to the members, by the tokens that each was trained on in it."""
        ms, members = self.total_ms - self._divided_ms, list(self._members.values())
        if not ms or not members:
            return
        self._divided_ms = self.total_ms
        parts = shared_ms(ms, [member.tokens - member.divided for member in members])
        for member, part in zip(members, parts, strict=True):
            member.divided = member.tokens
            member.meter.add(part, ms, now)

    def leave(self, job_id: str, now: datetime) -> None:
        """Its share up to now is its last one."""
        if job_id in self._members:
            self.divide(now)
            del self._members[job_id]
