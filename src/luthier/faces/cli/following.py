"""Watching a job: a live line on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from luthier.faces.cli.shown import clean, duration, talk

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.faces.sdk.answers import Event, Job
    from luthier.faces.sdk.client import Client

_LINE_EVERY_S = 10.0


@dataclass
class Seen:
    """What the events told so far."""

    total_steps: int | None = None
    attempt: int = 0
    phase: str = "waiting"
    step: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    eta_s: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    _began: tuple[datetime, int] | None = None

    def take(self, event: Event) -> None:
        """Learn from one more event."""
        if event.attempt != self.attempt:
            self.attempt, self._began, self.eta_s = event.attempt, None, None
            # What the attempt before did beyond the step that this one goes on from is done again.
            self.losses = [point for point in self.losses if point[0] <= event.step]
        self.step = event.step
        data = event.get("data") or {}
        if event.kind == "phase":
            self.phase = str(data.get("phase") or self.phase)
        elif event.kind == "eval" and data.get("eval_loss") is not None:
            self.eval_loss = data["eval_loss"]
        elif event.kind == "step":
            self.phase = "training"
            self.loss, self.tokens_per_second = data.get("loss"), data.get("tokens_per_second")
            self._take_steps(event, data.get("steps") or ())
            self._estimate(datetime.fromisoformat(event.at))

    def words(self) -> str:
        """One line: how far, how well, how fast, how long still."""
        steps = f"step {self.step}" + (f"/{self.total_steps}" if self.total_steps else "")
        parts = [steps if self.step else self.phase]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.eval_loss is not None:
            parts.append(f"eval {self.eval_loss:.3f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tok/s")
        if self.eta_s is not None and self.phase == "training":
            parts.append(f"ETA {duration(self.eta_s)}")
        elif self.step and self.phase != "training":
            parts.append(self.phase)
        return "  ".join(parts)

    def _take_steps(self, event: Event, steps: object) -> None:
        rows = steps if isinstance(steps, list | tuple) else ()
        found = [(int(row[0]), float(row[1])) for row in rows if isinstance(row, list | tuple) and len(row) > 1]
        self.losses += found or ([] if self.loss is None else [(event.step, self.loss)])

    def _estimate(self, at: datetime) -> None:
        if self._began is None:
            self._began = (at, self.step)
            return
        since, first = self._began
        if self.total_steps and self.step > first:
            self.eta_s = (at - since).total_seconds() / (self.step - first) * max(0, self.total_steps - self.step)


class View(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> View: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, event: Event, seen: Seen) -> None:
        """One more event, already taken into `seen`."""
        ...


class Lines:
    """For a log or a pipe: a line for each thing that happens, and for steps one every ten seconds."""

    def __init__(self, say: Callable[[str], None] = talk) -> None:
        self._say = say
        self._next_s = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, event: Event, seen: Seen) -> None:
        """A line, unless it is a step too soon after the one before."""
        at_s = datetime.fromisoformat(event.at).timestamp()
        if event.kind == "step":
            last = seen.total_steps is not None and seen.step >= seen.total_steps
            if at_s < self._next_s and not last:
                return
            self._next_s = at_s + _LINE_EVERY_S
            self._say(seen.words())
        elif event.kind != "checkpoint":
            self._say(clean(event.message).replace("\n", " "))


class Bar:
    """For a terminal: one line that is redrawn; what happens besides scrolls by above it."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        width = console.width
        columns = [TextColumn("{task.description}", markup=False)]
        if width >= 60:
            columns = [SpinnerColumn(), BarColumn(bar_width=min(20, width // 5)), *columns]
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("waiting", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event, seen: Seen) -> None:
        """Redraw; warnings and results stay readable above."""
        total = seen.total_steps if seen.phase == "training" else None
        self._progress.update(self._task, description=seen.words(), completed=seen.step, total=total)
        if event.kind in {"warning", "error"} or (event.kind == "state" and event.level != "info"):
            self._progress.console.print(clean(event.message), markup=False, highlight=False)


def view() -> View:
    """What suits stderr."""
    if not sys.stderr.isatty():
        return Lines()
    from rich.console import Console

    return Bar(Console(stderr=True))


def follow(client: Client, job_id: str, on: View | None = None) -> tuple[Job, Seen]:
    """Watch until the job has ended; returns it, and what was seen. Ctrl-C ends the watching, never the job."""
    seen = Seen()
    try:
        with on or view() as shown:
            for event in client.jobs.follow(job_id):
                if seen.total_steps is None and event.kind in {"step", "eval"}:
                    seen.total_steps = client.jobs.get(job_id).get("total_steps")
                seen.take(event)
                shown.show(event, seen)
        return client.jobs.get(job_id), seen
    except KeyboardInterrupt:
        talk(f"\nNo longer watching; the job goes on. Watch again: tune logs {job_id} --follow   End it: tune stop {job_id}")
        raise
