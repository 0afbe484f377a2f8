"""What stands between two steps, whatever it is that learns: evaluate, end, save, leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from luthier.jobs.spec import RunSpec
from luthier.training import machine
from luthier.training.checkpoints import Checkpoints
from luthier.training.failures import Stopping
from luthier.training.journal import Journal, StepReport
from luthier.training.plan import Plan
from luthier.training.ranks import ALONE, Ranks
from luthier.training.state import BestCheckpoint, TrainState, write_state
from luthier.training.watch import Watch

SAVE_EVERY_S = 300.0


@dataclass(frozen=True)
class Desk:
    """Where a loop writes, and who may interrupt it."""

    journal: Journal
    checkpoints: Checkpoints
    watch: Watch
    monotonic: Callable[[], float] = time.monotonic
    ranks: Ranks = ALONE
    """Who else works on the same run."""


@dataclass(frozen=True)
class Made:
    """What one optimiser step did."""

    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    """Or rows, where nothing has tokens."""
    seconds: float
    mfu: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Evaluated:
    """A validation: its loss, what to say beside it, and its numbers."""

    loss: float
    said: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


class Milestones:
    """The run as its owner sees it: steps, evaluations, checkpoints, and the end."""

    def __init__(self, spec: RunSpec, plan: Plan, desk: Desk, state: TrainState, fill: Callable[[Path], None]) -> None:
        """fill: writes into a checkpoint all that the next step depends on, but the state."""
        self._spec, self._plan, self._desk, self._state, self._fill = spec, plan, desk, state, fill
        self._began = self._saved_at = desk.monotonic()
        self._seconds_before = state.seconds
        self._kept: list[int] = []

    def stepped(self, made: Made) -> None:
        """Count a step, and tell of it."""
        state = self._state
        state.step += 1
        state.tokens_seen += made.tokens
        state.train_seconds += made.seconds
        state.see_loss(made.loss)
        self._desk.journal.step(
            StepReport(
                step=state.step,
                epoch=round(state.step / self._plan.steps_per_epoch, 4),
                loss=made.loss,
                learning_rate=made.learning_rate,
                grad_norm=made.grad_norm,
                tokens_seen=state.tokens_seen,
                tokens_per_second=round(made.tokens / max(made.seconds, 1e-9), 1),
                memory_bytes=machine.peak_bytes(self._plan.fixed.device),
                mfu=made.mfu,
                metrics=made.metrics,
            )
        )

    def between_steps(self, evaluate: Callable[[], Evaluated] | None) -> bool:
        """Do what is due. Returns whether it was the end. evaluate: may raise Stopping, and comes again later.

        Raises: Stopping, after a save (also when time is over); Fenced.
        """
        if evaluate is not None:
            self._evaluate_if_due(evaluate)
        self._finish_if_due()
        self._save_if_due()
        self._stop_if_wished()
        return self._state.finished

    def _evaluate_if_due(self, evaluate: Callable[[], Evaluated]) -> None:
        state, every = self._state, self._plan.eval_steps
        if every is None or state.step in (0, state.evaluated_step):
            return
        if state.step % every and state.step != self._plan.total_steps:
            return
        try:
            found = evaluate()
        except Stopping:
            return  # saved and left in a moment; whoever goes on evaluates first
        state.evaluated_step, state.eval_loss = state.step, found.loss
        better = state.best.see(state.step, found.loss)
        self._desk.journal.facts(eval_loss=found.loss)
        data = {"eval_loss": found.loss, "best": better, **found.metrics}
        said = f"Step {state.step}: validation loss {found.loss:.4f}{found.said}"
        self._desk.journal.event("eval", f"{said}{', the best so far' if better else ''}.", data)
        if better:
            self._save()

    def _finish_if_due(self) -> None:
        train, limit = self._spec.train, self._spec.limits.max_seconds
        if self._state.step >= self._plan.total_steps:
            self._finish(None)
        elif train.early_stopping_patience is not None and self._state.best.since >= train.early_stopping_patience:
            self._finish(f"No better validation loss in {self._state.best.since} evaluations: training ends early.")
        elif limit is not None and self._seconds >= limit and self._desk.watch.wish is None:
            # As the supervisor would: a stop, with a checkpoint to go on from once the limit is raised.
            message = f"limits.max_seconds ({limit} s) is reached at step {self._state.step} of {self._plan.total_steps}."
            self._desk.journal.event("warning", message, level="warning")
            self._desk.watch.ask("stopped")

    def _finish(self, reason: str | None) -> None:
        # An interrupted evaluation of the last step comes first.
        if self._desk.watch.wish is not None:
            return
        self._state.finished = True
        if reason is not None:
            self._desk.journal.event("warning", reason, level="warning")
        self._save()

    def _save_if_due(self) -> None:
        step = self._state.step
        timely = self._desk.monotonic() - self._saved_at >= SAVE_EVERY_S
        on_step = step > 0 and step % self._spec.train.save_steps == 0
        if not self._state.finished and (on_step or timely):
            self._save()

    def _stop_if_wished(self) -> None:
        wish = self._desk.watch.wish
        if wish is not None and not self._state.finished:
            if self._state.step > 0:
                self._save()
            raise Stopping(wish)

    def _save(self) -> None:
        """Publish a checkpoint of this very step, and remove those that nobody needs any more."""
        state = self._state
        state.seconds = round(self._seconds, 3)
        self._desk.journal.flush()  # no event may carry steps from both sides of a checkpoint

        def fill(folder: Path) -> None:
            self._fill(folder)
            write_state(folder, state)

        ref = self._desk.checkpoints.save(state.step, fill)
        self._saved_at = self._desk.monotonic()
        if state.best.eval_loss is not None and state.best.step == state.step:
            state.best_checkpoint = BestCheckpoint(ref.attempt, ref.step, ref.sha256)
        if state.step not in self._kept:
            self._kept.append(state.step)
            self._desk.journal.facts(last_checkpoint_step=state.step)
            self._desk.journal.event("checkpoint", f"Checkpoint of step {state.step} is complete.", {"sha256": ref.sha256})
        # The one before the last stays too: if a byte of the last one rots, not everything is lost.
        self._desk.checkpoints.keep_only({*self._kept[-2:], state.best.step})

    @property
    def _seconds(self) -> float:
        """Wall time of all attempts so far."""
        return self._seconds_before + self._desk.monotonic() - self._began
