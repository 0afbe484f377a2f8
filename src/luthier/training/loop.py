"""The loop that all methods share: step, watch, evaluate, save, stop. It reads top to bottom.

It asks for its passes by `yield`, so that several runs may share them (`gang.py`).

Everything the next step depends on is in `TrainState`, the adapter and the optimiser's moments, and all three are in each
checkpoint; rows and random numbers are functions of (seed, step). So a resume is the uninterrupted run, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from luthier.jobs.directory import CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.modeling.flops import peak_flops
from luthier.training import machine
from luthier.training.batches import Order, PassLimits
from luthier.training.checkpoints import Checkpoints, used
from luthier.training.failures import Stopping, is_out_of_memory
from luthier.training.gang import Pass, Repeat, Work
from luthier.training.journal import Journal, StepReport
from luthier.training.method import Batch, Engine, Method, Step
from luthier.training.plan import Plan
from luthier.training.schedules import Schedule
from luthier.training.state import BestCheckpoint, TrainState, read_optimiser, write_optimiser, write_state
from luthier.training.watch import Watch

SAVE_EVERY_S = 300.0


@dataclass(frozen=True)
class Material:
    """What is trained on what, and how."""

    spec: RunSpec
    plan: Plan
    engine: Engine
    method: Method
    validation: Method | None


@dataclass(frozen=True)
class Desk:
    """Where the loop writes, and who may interrupt it."""

    journal: Journal
    checkpoints: Checkpoints
    watch: Watch
    monotonic: Callable[[], float] = time.monotonic


@dataclass
class _Sum:
    """What the passes of one step add up to."""

    loss: float = 0.0
    tokens: int = 0
    flops: int = 0

    def slope(self, batch: Batch, logp_N: Tensor) -> Tensor:
        """The gradient of the batch's loss with respect to each log-probability."""
        leaf_N = logp_N.detach().requires_grad_()
        share = batch.loss(leaf_N)
        (grad_N,) = torch.autograd.grad(share, leaf_N)
        self.loss += share.item()
        self.tokens += len(batch.packed.ids_T)
        return grad_N


class Loop:
    """Trains one adapter to the end, or until somebody wants it to stop."""

    def __init__(self, material: Material, desk: Desk, state: TrainState, resumed: tuple[CheckpointRef, Path] | None) -> None:
        train = material.spec.train
        self.material, self.desk, self.state = material, desk, state
        self.plan = material.plan
        self.limits = material.plan.limits
        self.order = Order(material.spec.seed, len(material.method), self.plan.rows_per_step)
        self.schedule = Schedule(self.plan.learning_rate, train.schedule, train.warmup_steps, self.plan.total_steps)
        # Sorted: the order decides the last bits of the gradient's norm, and a loaded adapter may list its weights in another.
        self.named = dict(sorted(material.engine.parameters.items()))
        self.parameters = list(self.named.values())
        betas = (train.adam_beta1, train.adam_beta2)
        self.optimiser = AdamW(
            self.parameters,
            lr=self.plan.learning_rate,
            betas=betas,
            weight_decay=train.weight_decay,
            fused=self.plan.fixed.device != "mps",
        )
        if resumed is not None:
            with used(resumed[0]):
                read_optimiser(resumed[1], self.optimiser, self.named)
                material.method.load(resumed[1])
        self._resumed = None if resumed is None else resumed[0]
        self._began = self._saved_at = desk.monotonic()
        self._seconds_before = state.seconds
        fixed = self.plan.fixed
        self._peak_flops = peak_flops(fixed.device, torch.bfloat16 if fixed.precision == "bf16" else torch.float32, fixed.threads)
        self._kept: list[int] = []

    def run(self) -> Work[None]:
        """Train until all steps are done or patience ran out.

        Raises: Stopping, after a save (also when time is over); AttemptFailed; Fenced.
        """
        self._prepare()
        while not self.state.finished:
            self._evaluate_if_due()
            self._finish_if_due()
            self._save_if_due()
            self._stop_if_wished()
            if not self.state.finished:
                yield from self._step()

    @property
    def seconds(self) -> float:
        """Wall time of all attempts so far."""
        return self._seconds_before + self.desk.monotonic() - self._began

    def _prepare(self) -> None:
        first_epoch = range(min(self.plan.total_steps, self.plan.steps_per_epoch))
        visited = {number for step in first_epoch for number in self._numbers(step)}
        self.material.method.prepare(self.material.engine, sorted(visited), self.limits, self._tell)

    def _numbers(self, step: int) -> list[int]:
        """The units of the optimiser step after `step` others."""
        return self.order.of_step(step // self.plan.updates_per_batch)

    def _tell(self, done: float) -> None:
        self.desk.watch.check()
        self.desk.journal.progress(done)

    # -- one optimiser step ----------------------------------------------------------------------------------------

    def _step(self) -> Work[None]:
        began = self.desk.monotonic()
        state, step = self.state, self.state.step
        rate = self.schedule.rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        made = yield from self._gradients(self._numbers(step))
        norm = float(clip_grad_norm_(self.parameters, self.material.spec.train.max_grad_norm))
        # Before the weights take a gradient that is not a number.
        state.loss_watch.see(step + 1, made.loss, norm, rate, rising_is_bad=self.material.method.rising_loss_is_bad)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

        seconds = self.desk.monotonic() - began
        state.step += 1
        state.tokens_seen += made.tokens
        state.train_seconds += seconds
        state.see_loss(made.loss)
        self.desk.journal.step(
            StepReport(
                step=state.step,
                epoch=round(state.step / self.plan.steps_per_epoch, 4),
                loss=made.loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens_seen=state.tokens_seen,
                tokens_per_second=round(made.tokens / max(seconds, 1e-9), 1),
                memory_bytes=machine.peak_bytes(self.plan.fixed.device),
                mfu=round(made.flops / max(seconds, 1e-9) / self._peak_flops, 4),
                metrics=dict(self.material.method.metrics()),
            )
        )

    def _gradients(self, numbers: Sequence[int]) -> Work[_Sum]:
        """Fill `.grad` with the gradient of the step's loss, and return that loss."""
        while True:
            try:
                return (yield from self._passes(numbers))
            except Repeat:
                pass  # memory did not hold all members of a gang at once
            except (RuntimeError, MemoryError) as error:
                smaller = self._smaller(numbers) if is_out_of_memory(error) else None
                if smaller is None:
                    raise
                self.limits = smaller
                # The loss of a step does not depend on how many passes it takes.
                message = f"Memory ran out; going on with at most {self.limits.rows} rows and {self.limits.tokens} tokens a pass."
                self.desk.journal.event("warning", message, level="warning")
            self.optimiser.zero_grad(set_to_none=True)

    def _passes(self, numbers: Sequence[int]) -> Work[_Sum]:
        step = Step(numbers, self.state.step, seed=self.material.spec.seed << 32 | self.state.step)
        self.material.engine.seed(step.seed)
        made = _Sum()
        for batch in self.material.method.batches(self.material.engine, step, self.limits):
            made.flops += self.material.engine.flops(batch.packed)
            yield Pass(self.material.engine, batch.packed, partial(made.slope, batch), self.limits.tokens)
        return made

    def _smaller(self, rows: Sequence[int]) -> PassLimits | None:
        if self.limits.rows == 1 or len(rows) == 1:
            return None
        return PassLimits(max(1, min(self.limits.rows, len(rows)) // 2), self.limits.tokens)

    # -- between two steps -----------------------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        state, every, validation = self.state, self.plan.eval_steps, self.material.validation
        if validation is None or every is None or state.step in (0, state.evaluated_step):
            return
        if state.step % every and state.step != self.plan.total_steps:
            return
        try:
            eval_loss = validation.validation_loss(self.material.engine, self.limits, lambda _: self.desk.watch.check())
        except Stopping:
            return  # saved and left in a moment; whoever goes on evaluates first
        state.evaluated_step, state.eval_loss = state.step, eval_loss
        better = state.best.see(state.step, eval_loss)
        self.desk.journal.facts(eval_loss=eval_loss)
        data = {"eval_loss": eval_loss, "best": better, **validation.metrics()}
        self.desk.journal.event(
            "eval", f"Step {state.step}: validation loss {eval_loss:.4f}{', the best so far' if better else ''}.", data
        )
        if better:
            self._save()

    def _finish_if_due(self) -> None:
        train, limit = self.material.spec.train, self.material.spec.limits.max_seconds
        if self.state.step >= self.plan.total_steps:
            self._finish(None)
        elif train.early_stopping_patience is not None and self.state.best.since >= train.early_stopping_patience:
            self._finish(f"No better validation loss in {self.state.best.since} evaluations: training ends early.")
        elif limit is not None and self.seconds >= limit and self.desk.watch.wish is None:
            # As the supervisor would: a stop, with a checkpoint to go on from once the limit is raised.
            message = f"limits.max_seconds ({limit} s) is reached at step {self.state.step} of {self.plan.total_steps}."
            self.desk.journal.event("warning", message, level="warning")
            self.desk.watch.ask("stopped")

    def _finish(self, reason: str | None) -> None:
        # An interrupted evaluation of the last step comes first.
        if self.desk.watch.wish is not None:
            return
        self.state.finished = True
        if reason is not None:
            self.desk.journal.event("warning", reason, level="warning")
        self._save()

    def _save_if_due(self) -> None:
        step = self.state.step
        timely = self.desk.monotonic() - self._saved_at >= SAVE_EVERY_S
        on_step = step > 0 and step % self.material.spec.train.save_steps == 0
        if not self.state.finished and (on_step or timely):
            self._save()

    def _stop_if_wished(self) -> None:
        wish = self.desk.watch.wish
        if wish is not None and not self.state.finished:
            if self.state.step > 0:
                self._save()
            raise Stopping(wish)

    def _save(self) -> None:
        """Publish a checkpoint of this very step, and remove those that nobody needs any more."""
        state, spec = self.state, self.material.spec
        state.seconds = round(self.seconds, 3)
        self.desk.journal.flush()  # no event may carry steps from both sides of a checkpoint

        def fill(folder: Path) -> None:
            base = spec.sources.base if spec.sources else None
            self.material.engine.save_adapter(folder, base_model=spec.base_model, revision=base.revision if base else "")
            write_optimiser(folder, self.optimiser, self.named)
            write_state(folder, state)
            self.material.method.save(folder)

        ref = self.desk.checkpoints.save(state.step, fill)
        self._saved_at = self.desk.monotonic()
        if state.best.eval_loss is not None and state.best.step == state.step:
            state.best_checkpoint = BestCheckpoint(ref.attempt, ref.step, ref.sha256)
        if state.step not in self._kept:
            self._kept.append(state.step)
            self.desk.journal.facts(last_checkpoint_step=state.step)
            self.desk.journal.event("checkpoint", f"Checkpoint of step {state.step} is complete.", {"sha256": ref.sha256})
        # The one before the last stays too: if a byte of the last one rots, not everything is lost.
        self.desk.checkpoints.keep_only({*self._kept[-2:], state.best.step})
