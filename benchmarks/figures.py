"""From turns to ratios: what a pair of trainers did in the same rounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from racing import Racer, Step
from sameness import Sameness

SMALL_JOB_STEPS = 10
BUSY_CORES = 0.5
"""From here on other processes had so much of the machine that a run is not for the record."""


@dataclass
class Pair:
    """What was measured of ours and of one peer."""

    ours: str
    theirs: str
    rounds: list[tuple[Step, Step]] = field(default_factory=list[tuple[Step, Step]])
    """Steps that count for speed: (ours, theirs) of the same round."""
    complaints: list[str] = field(default_factory=list[str])
    """Where they did not do the same work."""
    gaps: list[float] = field(default_factory=list[float])
    """How far their losses were apart, by session."""
    losses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Of all steps of the last session."""
    peaks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    first: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Seconds from process start to the end of the first step, by session."""
    tenth: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """The same for a small job of ten steps, where a session had so many."""
    sessions: int = 0

    def add(self, ours: Racer, theirs: Racer, sameness: Sameness, warm_up: int) -> None:
        """A session is over."""
        both = list(zip(ours.steps, theirs.steps, strict=True))
        self.sessions += 1
        self.rounds += both[warm_up:]
        self.complaints += sameness.complaints(both)
        self.gaps.append(sameness.gap(both))
        self.losses = [(one.loss, other.loss) for one, other in both]
        self.peaks.append((ours.peak_bytes, theirs.peak_bytes))
        self.first.append((ours.seconds_to_step(1), theirs.seconds_to_step(1)))
        if len(both) >= SMALL_JOB_STEPS:
            self.tenth.append((ours.seconds_to_step(SMALL_JOB_STEPS), theirs.seconds_to_step(SMALL_JOB_STEPS)))


def row_of(pair: Pair) -> dict[str, Any]:
    """One line of the record. Speed ratios are ours over theirs (more is better), the others too (less is better)."""
    speeds = [(one.tokens_per_second, other.tokens_per_second) for one, other in pair.rounds]
    by_wall = [one / other for one, other in speeds]
    by_cpu = [(one.tokens / one.cpu_seconds) / (other.tokens / other.cpu_seconds) for one, other in pair.rounds]
    others_cores = statistics.median(step.others_cores for both in pair.rounds for step in both)
    ours, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
    wall, cpu = statistics.median(by_wall), statistics.median(by_cpu)
    row: dict[str, Any] = {
        "variant": pair.theirs,
        "ours": pair.ours,
        "speed_ratio": round(wall, 3),
        "interval": rounded(interval(by_wall)),
        "range": rounded((min(by_wall), max(by_wall))),
        "rounds": len(pair.rounds),
        "sessions": pair.sessions,
        "cpu_ratio": round(cpu, 3),
        "memory_ratio": round(ratio(pair.peaks), 3),
        "first_step_ratio": round(ratio(pair.first), 3),
        "tenth_step_ratio": round(ratio(pair.tenth), 3) if pair.tenth else None,
        "tokens_per_second": rounded((ours, theirs)),
        "peak_gib": rounded([max(column) / 2**30 for column in zip(*pair.peaks, strict=True)]),
        "first_step_s": rounded([statistics.median(column) for column in zip(*pair.first, strict=True)]),
        "tenth_step_s": rounded([statistics.median(column) for column in zip(*pair.tenth, strict=True)]),
        "tokens_per_step": [round(statistics.mean(step.tokens for step in steps)) for steps in zip(*pair.rounds, strict=True)],
        "losses_agree": not pair.complaints,
        "complaints": pair.complaints[:10],
        "loss_gap": round(max(pair.gaps), 8),
        "losses": [[round(loss, 6) for loss in column] for column in zip(*pair.losses, strict=True)],
        "others_cores": round(others_cores, 2),
        # A trainer that waits for cores loses wall time, never cpu time.
        "noisy": others_cores > BUSY_CORES or abs(wall / cpu - 1) > 0.25,
    }
    return row


def ratio(values: Sequence[tuple[float, float]]) -> float:
    """Ours over theirs, the median of all sessions."""
    return statistics.median(one / other for one, other in values)


def interval(ratios: Sequence[float], draws: int = 4000) -> tuple[float, float]:
    """Where the median of the ratios lies with 95 % confidence: the bootstrap over rounds.

    >>> interval([2.0] * 15)
    (2.0, 2.0)
    """
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975) - 1]


def rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


COLUMNS = (
    ("against", "variant"),
    ("speed x", "speed_ratio"),
    ("95 %", "interval"),
    ("range", "range"),
    ("cpu x", "cpu_ratio"),
    ("memory x", "memory_ratio"),
    ("1st step x", "first_step_ratio"),
    ("10th x", "tenth_step_ratio"),
    ("tokens/s", "tokens_per_second"),
    ("MFU", "mfu"),
    ("GiB", "peak_gib"),
    ("1st step s", "first_step_s"),
    ("loss gap", "loss_gap"),
    ("others' cores", "others_cores"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For people. Pairs are (ours, theirs)."""
    lines = [[title for title, _ in COLUMNS]]
    for row in rows:
        marks = ("" if row["losses_agree"] else " WRONG LOSSES") + (" noisy" if row["noisy"] else "")
        lines.append([cell(row.get(key)) + (marks if key == "variant" else "") for _, key in COLUMNS])
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def cell(value: Any) -> str:
    """
    >>> cell([0.5, 1234.0]), cell(None), cell("trl")
    ('0.5 1234', '-', 'trl')
    """
    if isinstance(value, (list, tuple)):
        return " ".join(map(cell, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
