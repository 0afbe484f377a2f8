"""The loop of PyTorch classifiers: step, watch, evaluate, save, stop. It reads top to bottom.

Everything the next step depends on is in `TrainState`, the weights and the optimiser's moments, and all three are in each
checkpoint; rows and random numbers are functions of (seed, step). So a resume is the uninterrupted run, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from luthier.jobs.directory import CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.modeling.classifiers.saving import TorchClassifier, load_weights, save_weights
from luthier.training.batches import Order
from luthier.training.classifiers.data import Samples
from luthier.training.classifiers.scores import scores_of
from luthier.training.milestones import Desk, Evaluated, Made, Milestones
from luthier.training.plan import Plan
from luthier.training.schedules import Schedule
from luthier.training.state import TrainState, read_optimiser, write_optimiser


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
        self.milestones = Milestones(material.spec, plan, desk, state, self._fill)

    def run(self) -> None:
        """Train until all steps are done or patience ran out.

        Raises: Stopping, after a save (also when time is over); AttemptFailed; Fenced.
        """
        evaluate = None if self.material.validation is None else partial(self._evaluate, self.material.validation)
        while not self.state.finished:
            self.milestones.between_steps(evaluate)
            if not self.state.finished:
                self._step()

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
        self.milestones.stepped(Made(loss, rate, norm, tokens=len(rows), seconds=seconds))

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

    def _evaluate(self, validation: Samples) -> Evaluated:
        scores = scores_of(self.material.classifier.probabilities(validation.inputs), validation.labels)
        return Evaluated(scores.loss, f", accuracy {scores.accuracy:.1%}", scores.metrics)

    def _fill(self, folder: Path) -> None:
        save_weights(self.module, folder)
        write_optimiser(folder, self.optimiser, self.named)
