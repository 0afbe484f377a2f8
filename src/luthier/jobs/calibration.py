"""How earlier jobs correct the next estimate, and how far off earlier estimates were. Pure; aggregates alone leave this file, so
that what they are made of may belong to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from luthier.billing import rules as money
from luthier.billing.types import Price
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import EarlierError, Estimate, FitTest, Taken

LEAST_JOBS = 3
"""Fewer say more about themselves than about the next."""
MOST_JOBS = 15
"""Older ones ran on other versions and other data."""
_TIME_BOUNDS = (0.2, 8.0)
_MEMORY_BOUNDS = (0.8, 2.0)
"""The formula counts what must be there, so a job that took much less was another kind of job."""
_NOT_THE_RUN = {"kind", "name", "sources", "limits", "evaluate", "metadata"}
"""Sections of a spec that change nothing of how much memory training takes."""


@dataclass(frozen=True)
class Past:
    """An earlier job: what its estimate said, and what it took."""

    estimate: Estimate
    took: Taken

    @property
    def formula(self) -> Taken:
        """What was predicted before it was corrected."""
        shown = self.estimate
        return shown.uncalibrated or Taken(seconds=shown.seconds, memory_bytes=shown.memory.total_bytes)


@dataclass(frozen=True)
class Correction:
    """By what the next estimate is multiplied."""

    jobs: int = 0
    memory: float = 1.0
    assumed_time: float = 1.0
    measured_time: float = 1.0
    """Where the speed is a guess, and where it was measured: each is off in its own way."""
    error: EarlierError | None = None


def correction_of(past: Sequence[Past]) -> Correction:
    """Medians over earlier jobs, the latest first in `past`, within bounds; nothing is corrected by fewer than three."""
    recent = past[:MOST_JOBS]
    return Correction(
        jobs=len(recent) if len(recent) >= LEAST_JOBS else 0,
        memory=factor(((job.took.memory_bytes, job.formula.memory_bytes) for job in recent), _MEMORY_BOUNDS),
        assumed_time=_time_factor(recent, "assumed"),
        measured_time=_time_factor(recent, "measured"),
        error=error_of(recent),
    )


def factor(pairs: Iterable[tuple[float | None, float | None]], bounds: tuple[float, float]) -> float:
    """The median of took / predicted, within bounds; 1 where too few are known.

    >>> factor([(20, 10), (30, 10), (90, 10)], (0.5, 8)), factor([(20, 10)], (0.5, 8))
    (3.0, 1.0)
    """
    known = [took / said for took, said in pairs if took and said]
    if len(known) < LEAST_JOBS:
        return 1.0
    return min(bounds[1], max(bounds[0], median(known)))


def error_of(past: Sequence[Past]) -> EarlierError | None:
    """How far what was shown lay from what was taken, as a share; twice and half are equally far."""
    if not past:
        return None
    times = [distance(job.estimate.seconds, job.took.seconds) for job in past]
    memories = [distance(job.estimate.memory.total_bytes, job.took.memory_bytes) for job in past if job.took.memory_bytes]
    return EarlierError(
        jobs=len(past),
        seconds_median=round(median(times), 3),
        seconds_worst=round(max(times), 3),
        memory_median=round(median(memories), 3) if memories else None,
        memory_worst=round(max(memories), 3) if memories else None,
    )


def distance(said: float, took: float) -> float:
    """
    >>> distance(10, 20), distance(20, 10), distance(10, 10)
    (1.0, 1.0, 0.0)
    """
    larger, smaller = max(said, took), min(said, took)
    return larger / max(smaller, 1e-3) - 1


def applied(estimate: Estimate, correction: Correction, price: Price, test: FitTest | None = None) -> Estimate:
    """The estimate as earlier jobs correct it. What a fit test of the very run has measured takes the place of the formula."""
    memory, formula = estimate.memory, Taken(seconds=estimate.seconds, memory_bytes=estimate.memory.total_bytes)
    ratio = correction.measured_time if estimate.basis == "measured" else correction.assumed_time
    seconds = max(1, round(estimate.seconds * ratio))
    total = round(memory.total_bytes * correction.memory)
    if test is not None and test.memory_bytes:
        total = test.memory_bytes
    fits = memory.available_bytes is None or total <= memory.available_bytes
    return estimate.model_copy(
        update={
            "seconds": seconds,
            "cost_usd": money.usd(money.expected_micro_usd(price.micro_usd_per_hour, seconds)),
            "memory": memory.model_copy(update={"correction_bytes": total - memory.total_bytes, "total_bytes": total}),
            "fits": fits if test is None else test.fits and fits,
            "calibrated_by": correction.jobs,
            "earlier_error": correction.error,
            "uncalibrated": formula,
            "fit_test": test,
        }
    )


def same_run(one: RunSpec, other: RunSpec) -> bool:
    """Whether both train the same on the same, so that what one holds the other will hold."""
    return one.model_dump(exclude=_NOT_THE_RUN) == other.model_dump(exclude=_NOT_THE_RUN)


def _time_factor(past: Sequence[Past], basis: Literal["assumed", "measured"]) -> float:
    return factor(((job.took.seconds, job.formula.seconds) for job in past if job.estimate.basis == basis), _TIME_BOUNDS)
