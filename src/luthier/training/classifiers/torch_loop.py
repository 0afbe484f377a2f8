"""The loop of PyTorch classifiers: step, watch, evaluate, save, stop. It reads top to bottom.

Everything the next step depends on is in `TrainState`, the weights and the optimiser's moments, and all three are in each
checkpoint; rows and random numbers are functions of (seed, step). So a resume is the uninterrupted run, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from luthier.jobs.directory import CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.training import machine
from luthier.training.batches import Order
from luthier.training.classifiers.data import Samples
from luthier.training.classifiers.saving import TorchClassifier, load_weights, save_weights
from luthier.training.classifiers.scores import Scores, scores_of
from luthier.training.failures import Stopping
from luthier.training.journal import StepReport
from luthier.training.loop import SAVE_EVERY_S, Desk
from luthier.training.plan import Plan
from luthier.training.schedules import Schedule
from luthier.training.state import BestCheckpoint, TrainState, read_optimiser, write_optimiser, write_state


@dataclass(frozen=True)
class Material:
    """What learns from what, and how."""

    spec: RunSpec
    plan: Plan
    classifier: TorchClassifier
    training: Samples
    validation: Samples | None


class ClassifierLoop:
    """Trains one classifier to the end, or until somebody wants it to stop."""

    def __init__(self, material: Material, desk: Desk, state: TrainState, resumed: tuple[CheckpointRef, Path] | None) -> None:
        train, plan = material.spec.train, material.plan
        self.material, self.desk, self.state, self.plan = material, desk, state, plan
        self.module = material.classifier.module
        self.named = dict(sorted(self.module.named_parameters()))
        self.order = Order(material.spec.seed, len(material.training), plan.rows_per_step)
        self.schedule = Schedule(plan.learning_rate, train.schedule, train.warmup_steps, plan.total_steps)
        betas = (train.adam_beta1, train.adam_beta2)
        # With `weight_decay: 0`, the default, this is Adam.
        self.optimiser = AdamW(self.named.values(), lr=plan.learning_rate, betas=betas, weight_decay=train.weight_decay)
        if resumed is not None:
            load_weights(self.module, resumed[1])
            read_optimiser(resumed[1], self.optimiser, self.named)
        self._began = self._saved_at = desk.monotonic()
        self._seconds_before = state.seconds
        self._kept: list[int] = []

    def run(self) -> None:
        """Train until all steps are done or patience ran out.

        Raises: Stopping, after a save (also when time is over); AttemptFailed; Fenced.
        """
        while not self.state.finished:
            self._evaluate_if_due()
            self._finish_if_due()
            self._save_if_due()
            self._stop_if_wished()
            if not self.state.finished:
                self._step()

    @property
    def seconds(self) -> float:
        """Wall time of all attempts so far."""
        return self._seconds_before + self.desk.monotonic() - self._began

    # -- one optimiser step ----------------------------------------------------------------------------------------

    def _step(self) -> None:
        began = self.desk.monotonic()
        state, step = self.state, self.state.step
        rate = self.schedule.rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.material.spec.seed << 32 | step)
        rows = self.order.of_step(step)
        loss = self._gradients(rows)
        norm = float(clip_grad_norm_(self.named.values(), self.material.spec.train.max_grad_norm))
        # Before the weights take a gradient that is not a number.
        state.loss_watch.see(step + 1, loss, norm, rate)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

        seconds = self.desk.monotonic() - began
        state.step += 1
        state.tokens_seen += len(rows)
        state.train_seconds += seconds
        state.see_loss(loss)
        self.desk.journal.step(
            StepReport(
                step=state.step,
                epoch=round(state.step / self.plan.steps_per_epoch, 4),
                loss=loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens_seen=state.tokens_seen,
                tokens_per_second=round(len(rows) / max(seconds, 1e-9), 1),
                memory_bytes=machine.peak_bytes(self.plan.fixed.device),
            )
        )

    def _gradients(self, rows: list[int]) -> float:
        """Fill `.grad` with the gradient of the rows' mean loss, and return that loss."""
        self.module.train()
        total, at_once = 0.0, self.plan.fixed.batch_size
        for start in range(0, len(rows), at_once):
            image_BP, label_B = self._batch(rows[start : start + at_once])
            share = cross_entropy(self.module(image_BP), label_B, reduction="sum") / len(rows)
            share.backward()
            total += share.item()
        return total

    def _batch(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        data, device = self.material.training, self.plan.fixed.device
        images = np.asarray(data.inputs)[rows]
        return torch.from_numpy(images).to(device), torch.from_numpy(data.labels[rows]).to(device)

    # -- between two steps -----------------------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        state, every, validation = self.state, self.plan.eval_steps, self.material.validation
        if validation is None or every is None or state.step in (0, state.evaluated_step):
            return
        if state.step % every and state.step != self.plan.total_steps:
            return
        scores = self._scores(validation)
        state.evaluated_step, state.eval_loss = state.step, scores.loss
        better = state.best.see(state.step, scores.loss)
        self.desk.journal.facts(eval_loss=scores.loss)
        data = {"eval_loss": scores.loss, "best": better, **scores.metrics}
        said = f"Step {state.step}: validation loss {scores.loss:.4f}, accuracy {scores.accuracy:.1%}"
        self.desk.journal.event("eval", f"{said}{', the best so far' if better else ''}.", data)
        if better:
            self._save()

    def _scores(self, samples: Samples) -> Scores:
        return scores_of(self.material.classifier.probabilities(samples.inputs), samples.labels)

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
        state = self.state
        state.seconds = round(self.seconds, 3)
        self.desk.journal.flush()  # no event may carry steps from both sides of a checkpoint

        def fill(folder: Path) -> None:
            save_weights(self.module, folder)
            write_optimiser(folder, self.optimiser, self.named)
            write_state(folder, state)

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
