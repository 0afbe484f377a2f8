"""What an attempt tells while it runs: events, then status, then a line for people.

Steps after the first are gathered and written about once a second: a tiny model makes a hundred steps in that time it takes to
flush a disk ten times. No step's loss is left out, a `step` event carries all that happened since the one before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.jobs.directory import AttemptDirectory, AttemptState, AttemptStatus, CheckpointRef, Event, Failure
from luthier.seams import Clock

CHUNK_BYTES = 64 * 1024
_STEPS_PER_EVENT = 400
_FLUSH_S = 1.0

EventKind = Literal["state", "phase", "step", "eval", "checkpoint", "warning", "error"]


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_seen: int
    tokens_per_second: float
    memory_bytes: int
    mfu: float | None = None
    """Share of the machine's peak FLOP/s that went into learning."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the method tells of itself."""


class Journal:
    """Writes `events/` and `status.json` of one attempt. One thread only."""

    def __init__(
        self,
        attempt: AttemptDirectory,
        now: Clock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        keep_log: bool = False,
        say: bool = True,
    ) -> None:
        self._attempt = attempt
        self._now = now
        self._monotonic = monotonic
        self._keep_log = keep_log
        self._says = say
        self._status = AttemptStatus(attempt=attempt.number)
        self._seq = 0
        self._chunk = bytearray()
        self._chunk_seq = 0
        self._steps: list[StepReport] = []
        self._flushed_at = float("-inf")
        self._rate: tuple[float, int] | None = None
        self.unit = "tokens"
        """What is counted a second, in messages."""

    @property
    def status(self) -> AttemptStatus:
        return self._status

    def begin(self, resumed_from: CheckpointRef | None) -> None:
        """The first word. It says at once where the attempt goes on: readers drop what an older one did beyond that."""
        step = 0 if resumed_from is None else resumed_from.step
        self._set(resumed_from=resumed_from, step=step, last_checkpoint_step=step or None)
        where = f", going on from step {step} of attempt {resumed_from.attempt}" if resumed_from else ""
        self.event("state", f"Attempt {self._attempt.number} starts{where}.", {"state": "starting"})

    def state(self, state: AttemptState, message: str, failure: Failure | None = None) -> None:
        """A new state; the last one is the last word of the attempt."""
        self._set(state=state, failure=failure)
        level = "error" if failure else "info"
        data = {"state": state} if failure is None else {"state": state, "failure": failure.model_dump()}
        self.event("state", message, data, level=level)

    def phase(self, name: str, message: str = "") -> None:
        """Something else begins that takes a while."""
        self._set(phase=name, phase_done=0.0)
        self.event("phase", message or f"{name[0].upper()}{name[1:]}.", {"phase": name})

    def progress(self, done: float) -> None:
        """How much of the phase is done, 0 to 1. Written at most once a second."""
        self._set(phase_done=min(1.0, max(0.0, done)))
        self._flush_if_due()

    def facts(self, **facts: Any) -> None:
        """Change fields of the status; written with the next flush."""
        self._set(**facts)

    def step(self, report: StepReport) -> None:
        """Record one optimiser step. The first one is told at once: somebody waits to see that it trains."""
        first = self._rate is None
        self._steps.append(report)
        total = self._status.total_steps
        self._set(
            step=report.step,
            epoch=report.epoch,
            loss=report.loss,
            learning_rate=report.learning_rate,
            tokens_seen=report.tokens_seen,
            tokens_per_second=report.tokens_per_second,
            peak_memory_bytes=max(report.memory_bytes, self._status.peak_memory_bytes or 0),
            phase_done=None if not total else report.step / total,
            eta_seconds=self._eta(report.step, total),
        )
        if first or len(self._steps) >= _STEPS_PER_EVENT:
            self.flush()
        self._flush_if_due()

    def event(
        self,
        kind: EventKind,
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        level: Literal["info", "warning", "error"] = "info",
    ) -> None:
        """Record something that readers must not wait for."""
        self._gather_steps()
        self._add(kind, message, dict(data or {}), level)
        self.flush()

    def flush(self) -> None:
        """Write all that is known now: events before status, so that whoever sees step 200 finds step 200's loss."""
        self._gather_steps()
        if self._chunk:
            self._write_chunk()
        self._set(updated_at=self._now())
        self._attempt.write_status(self._status)
        self._flushed_at = self._monotonic()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _set(self, **facts: Any) -> None:
        self._status = self._status.model_copy(update=facts)

    def _flush_if_due(self) -> None:
        if self._monotonic() - self._flushed_at >= _FLUSH_S:
            self.flush()

    def _eta(self, step: int, total: int | None) -> float | None:
        now = self._monotonic()
        if self._rate is None:
            self._rate = (now, step)
        began, first = self._rate
        if not total or step == first:
            return None
        return round((total - step) * (now - began) / (step - first), 1)

    def _gather_steps(self) -> None:
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        last = steps[-1]
        told = sorted(last.metrics)
        columns = [[each.step, each.loss, each.learning_rate, each.grad_norm, *map(each.metrics.get, told)] for each in steps]
        data: dict[str, Any] = {
            "loss": last.loss,
            "learning_rate": last.learning_rate,
            "grad_norm": last.grad_norm,
            "tokens_per_second": last.tokens_per_second,
            "memory_bytes": last.memory_bytes,
            "mfu": last.mfu,
            "epoch": last.epoch,
            **last.metrics,
            "columns": ["step", "loss", "learning_rate", "grad_norm", *told],
            "steps": columns,
        }
        total = f" of {self._status.total_steps}" if self._status.total_steps else ""
        message = f"Step {last.step}{total}: loss {last.loss:.4f}, {last.tokens_per_second:.0f} {self.unit}/s."
        self._add("step", message, data, "info")

    def _add(self, kind: EventKind, message: str, data: dict[str, Any], level: Literal["info", "warning", "error"]) -> None:
        event = Event(
            attempt=self._attempt.number,
            seq=self._seq,
            at=self._now(),
            kind=kind,
            level=level,
            step=self._status.step,
            message=message,
            data=data,
        )
        line = event.model_dump_json().encode() + b"\n"
        if self._chunk and len(self._chunk) + len(line) > CHUNK_BYTES:
            self._write_chunk()
            self._chunk = bytearray()
        if not self._chunk:
            self._chunk_seq = self._seq
        self._chunk += line
        self._seq += 1
        self._say(event)

    def _write_chunk(self) -> None:
        name = self._attempt.name("events", f"{self._chunk_seq:08d}.jsonl")
        self._attempt.storage.write(name, bytes(self._chunk))

    def _say(self, event: Event) -> None:
        line = f"{event.at:%Y-%m-%d %H:%M:%S}Z {event.level.upper():7} {event.message}\n"
        if self._says:
            sys.stdout.write(line)
            sys.stdout.flush()
        if self._keep_log:
            self._attempt.storage.append(self._attempt.name("job.log"), line.encode())
