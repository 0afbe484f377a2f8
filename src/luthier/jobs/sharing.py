"""Decisions about jobs that share a trainer: who goes with whom, and whether it is worth a moment to wait for more."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from luthier.jobs.estimation import together_bytes
from luthier.jobs.types import MemoryEstimate

_MOST_GATHERINGS = 5
"""A line that keeps growing waits this many times `gather_s` at most."""


@dataclass(frozen=True)
class Sharing:
    """What a supervisor allows."""

    most: int = 1
    """Jobs of one trainer."""
    across_tenants: bool = False
    max_attempts: int = 4
    spare_slots: int = 0
    """Trainers that it could start beside this one."""
    free_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Memory that is free on its machine now, by hardware, where it is known."""
    gather_s: float = 0
    """A job that came less than this ago may be the first of many."""


ALONE = Sharing()


@dataclass(frozen=True)
class Waiting:
    """A job in the queue, as far as it matters who shares with it."""

    job_id: str
    tenant_id: str
    queued_at: datetime
    hardware: str
    memory: MemoryEstimate
    alike: Hashable | None
    """Jobs that are equal in this may share a trainer; None shares with nobody."""
    crashes: int = 0


def gang_of(line: Sequence[Waiting], sharing: Sharing) -> list[Waiting]:
    """The head of the line, and who trains with it. `line` is the queue, the job that has waited longest first.

    A job goes before an older one of another tenant only if there is a slot left for that one: otherwise who submits much
    would keep the others waiting for longer than their turn. Nobody joins a gang that runs, so each waits for one at most.
    """
    gang = [line[0]]
    passed_over: list[str] = []
    for job in line[1:]:
        overtaken = sum(tenant_id != job.tenant_id for tenant_id in passed_over)
        if overtaken <= sharing.spare_slots and _joins(job, gang, sharing):
            gang.append(job)
        else:
            passed_over.append(job.tenant_id)
    return gang


def gathers(gang: Sequence[Waiting], now: datetime, sharing: Sharing) -> bool:
    """Whether to wait a moment: the newest came just now, and the next one of a sweep may be on its way.

    Clocks that disagree make it wait for nothing: an age below zero counts as old.
    """
    ages = [(now - job.queued_at).total_seconds() for job in gang]
    grows = len(gang) < min(_most(job, sharing) for job in gang) and gang[0].alike is not None
    return grows and 0 <= min(ages) < sharing.gather_s and max(ages) < _MOST_GATHERINGS * sharing.gather_s


def _joins(job: Waiting, gang: Sequence[Waiting], sharing: Sharing) -> bool:
    head, together = gang[0], (*gang, job)
    if job.alike is None or job.alike != head.alike:
        return False
    if not sharing.across_tenants and job.tenant_id != head.tenant_id:
        return False
    return len(together) <= min(_most(each, sharing) for each in together) and _fits(together, sharing)


def _most(job: Waiting, sharing: Sharing) -> int:
    """Of how many it may be one. Each crash halves it, and the last attempt is made alone: whoever takes a whole process down
    is found in this way, and no job fails for good because of another."""
    return 1 if job.crashes + 1 >= sharing.max_attempts else max(1, sharing.most >> job.crashes)


def _fits(together: Sequence[Waiting], sharing: Sharing) -> bool:
    room = [each.memory.available_bytes for each in together] + [sharing.free_bytes.get(together[0].hardware)]
    known = [size for size in room if size is not None]
    return not known or together_bytes([each.memory for each in together]) <= min(known)
