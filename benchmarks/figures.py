"""From turns to ratios: what a pair of trainers did in the same rounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from racing import Racer, Step

SMALL_JOB_STEPS = 10
SAME_ROWS_TOLERANCE = 0.005
"""Largest relative difference of the losses of one step on the same rows. Adapters begin with different random numbers, and
bf16 rounds; the loss of a step whose rows or mask were others would be further off than this."""
OTHER_ROWS_TOLERANCE = 0.02
"""The same for the mean over all steps, where a peer packs rows of its own choice."""
BUSY_CORES = 0.5
"""From here on other processes had so much of the machine that a run is not for the record."""


@dataclass
class Pair:
    """What was measured of ours and of one peer."""

    ours: str
    theirs: str
    rounds: list[tuple[Step, Step]] = field(default_factory=list[tuple[Step, Step]])
    """Steps that count for speed: (ours, theirs) of the same round."""
    losses: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Of all steps, also those of the warm-up."""
    peaks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    first: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Seconds from process start to the end of the first step, by session."""
    tenth: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """The same for a small job of ten steps, where a session had so many."""
    sessions: int = 0

    def add(self, ours: Racer, theirs: Racer, warm_up: int) -> None:
        """A session is over."""
        both = list(zip(ours.steps, theirs.steps, strict=True))
        self.sessions += 1
        self.rounds += both[warm_up:]
        self.losses += [(one.loss, other.loss) for one, other in both]
        self.peaks.append((ours.peak_bytes, theirs.peak_bytes))
        self.first.append((ours.seconds_to_step(1), theirs.seconds_to_step(1)))
        if len(both) >= SMALL_JOB_STEPS:
            self.tenth.append((ours.seconds_to_step(SMALL_JOB_STEPS), theirs.seconds_to_step(SMALL_JOB_STEPS)))


def row_of(pair: Pair, *, same_rows: bool, mfu: Callable[[float], float]) -> dict[str, Any]:
    """One line of the record. Speed ratios are ours over theirs (more is better), the others too (less is better)."""
    speeds = [(one.tokens_per_second, other.tokens_per_second) for one, other in pair.rounds]
    by_wall = [one / other for one, other in speeds]
    by_cpu = [(one.tokens / one.cpu_seconds) / (other.tokens / other.cpu_seconds) for one, other in pair.rounds]
    others_cores = statistics.median(step.others_cores for both in pair.rounds for step in both)
    ours, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
    wall, cpu = statistics.median(by_wall), statistics.median(by_cpu)
    gap = loss_gap(pair.losses, same_rows=same_rows)
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
        "mfu": rounded((mfu(ours), mfu(theirs))),
        "peak_gib": rounded([max(column) / 2**30 for column in zip(*pair.peaks, strict=True)]),
        "first_step_s": rounded([statistics.median(column) for column in zip(*pair.first, strict=True)]),
        "tenth_step_s": rounded([statistics.median(column) for column in zip(*pair.tenth, strict=True)]),
        "tokens_per_step": [round(statistics.mean(step.tokens for step in steps)) for steps in zip(*pair.rounds, strict=True)],
        "same_rows": same_rows,
        "loss_gap": round(gap, 6),
        "losses_agree": gap <= (SAME_ROWS_TOLERANCE if same_rows else OTHER_ROWS_TOLERANCE) and not other_tokens(pair, same_rows),
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


def loss_gap(losses: Sequence[tuple[float, float]], *, same_rows: bool) -> float:
    """How far apart the losses are, relative to ours."""
    if same_rows:
        return max(abs(one - other) / one for one, other in losses)
    ours, theirs = (statistics.mean(column) for column in zip(*losses, strict=True))
    return abs(ours - theirs) / ours


def other_tokens(pair: Pair, same_rows: bool) -> bool:
    """Whether a step of theirs had another number of tokens for an adapter than ours, on what should have been the same rows."""
    return same_rows and any(one.tokens_per_adapter != other.tokens_per_adapter for one, other in pair.rounds)


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
        lines.append([cell(row[key]) + (marks if key == "variant" else "") for _, key in COLUMNS])
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
