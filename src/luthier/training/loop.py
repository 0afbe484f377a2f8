"""The loop that all methods share: step, watch, evaluate, save, stop. It reads top to bottom.

It asks for its passes by `yield`, so that several runs may share them (`gang.py`).

Everything the next step depends on is in `TrainState`, the adapter and the optimiser's moments, and all three are in each
checkpoint; rows and random numbers are functions of (seed, step). So a resume is the uninterrupted run, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from luthier.datasets.packing import PassLimits
from luthier.jobs.directory import CheckpointRef
from luthier.jobs.spec import RunSpec
from luthier.modeling.adapter_files import HEAD
from luthier.modeling.flops import peak_flops
from luthier.training.batches import Order
from luthier.training.checkpoints import used
from luthier.training.failures import is_out_of_memory
from luthier.training.gang import Pass, Repeat, Work
from luthier.training.method import Batch, Engine, Method, Step
from luthier.training.milestones import Desk, Evaluated, Made, Milestones
from luthier.training.plan import Plan
from luthier.training.schedules import Schedule
from luthier.training.state import TrainState, read_optimiser, write_optimiser


@dataclass(frozen=True)
class Material:
    """What is trained on what, and how."""

    spec: RunSpec
    plan: Plan
    engine: Engine
    method: Method
    validation: Method | None


@dataclass
class _Sum:
    """What the passes of one step add up to."""

    loss: float = 0.0
    tokens: int = 0
    flops: int = 0

    def slope(self, batch: Batch, given: Tensor) -> Tensor:
        """The gradient of the batch's loss with respect to what the engine gave; that of a method's own head is added to it."""
        leaf = given.detach().requires_grad_()
        share = batch.loss(leaf)
        torch.autograd.backward(share)
        self.loss += share.item()
        self.tokens += len(batch.packed.ids_T)
        if leaf.grad is None:
            raise RuntimeError("the loss of this method does not depend on the model")
        return leaf.grad


class Loop:
    """Trains one adapter to the end, or until somebody wants it to stop."""

    def __init__(self, material: Material, desk: Desk, state: TrainState, resumed: tuple[CheckpointRef, Path] | None) -> None:
        train = material.spec.train
        self.material, self.desk, self.state = material, desk, state
        self.plan = material.plan
        self.limits = desk.ranks.narrowed(material.plan.limits, self.plan.rows_per_step)
        self.order = Order(material.spec.seed, len(material.method), self.plan.rows_per_step)
        self.schedule = Schedule(self.plan.learning_rate, train.schedule, train.warmup_steps, self.plan.total_steps)
        # Sorted: the order decides the last bits of the gradient's norm, and a loaded adapter may list its weights in another.
        head = material.method.head
        self.named = dict(sorted({**material.engine.parameters, **({} if head is None else {HEAD: head})}.items()))
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
        self.milestones = Milestones(material.spec, self.plan, desk, state, self._fill)
        fixed = self.plan.fixed
        self._peak_flops = peak_flops(fixed.device, torch.bfloat16 if fixed.precision == "bf16" else torch.float32, fixed.threads)

    def run(self) -> Work[None]:
        """Train until all steps are done or patience ran out.

        Raises: Stopping, after a save (also when time is over); AttemptFailed; Fenced.
        """
        self._prepare()
        evaluate = None if self.material.validation is None else partial(self._evaluate, self.material.validation)
        while not self.state.finished:
            self.state.finished = self.desk.ranks.led(partial(self.milestones.between_steps, evaluate))
            if not self.state.finished:
                yield from self._step()

    def _prepare(self) -> None:
        visited: Sequence[int] = range(len(self.material.method))
        if self.plan.total_steps < self.plan.steps_per_epoch:
            visited = sorted({number for step in range(self.plan.total_steps) for number in self._numbers(step)})
        self.material.method.prepare(self.material.engine, visited, self.limits, self._tell)

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
        numbers = self._numbers(step)
        if step + 1 < self.plan.total_steps:
            self.material.method.soon(self._numbers(step + 1))
        made = yield from self._gradients(numbers)
        norm = float(clip_grad_norm_(self.parameters, self.material.spec.train.max_grad_norm))
        # Before the weights take a gradient that is not a number.
        state.loss_watch.see(step + 1, made.loss, norm, rate, rising_is_bad=self.material.method.rising_loss_is_bad)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

        seconds = self.desk.monotonic() - began
        self.milestones.stepped(
            Made(
                loss=made.loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens=made.tokens,
                seconds=seconds,
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
                message = self._save_memory(numbers) if is_out_of_memory(error) else None
                if message is None:
                    raise
                self.desk.journal.event("warning", message, level="warning")
            self.optimiser.zero_grad(set_to_none=True)

    def _passes(self, numbers: Sequence[int]) -> Work[_Sum]:
        step = Step(numbers, self.state.step, seed=self.material.spec.seed << 32 | self.state.step)
        self.material.engine.seed(step.seed)
        made = _Sum()
        method, engine, ranks = self.material.method, self.material.engine, self.desk.ranks
        with ranks.as_one():
            for batch in ranks.share(method.batches(engine, step, self.limits), engine):
                made.flops += engine.flops(batch.packed)
                yield Pass(engine, batch.packed, partial(made.slope, batch), self.limits.tokens)
        made.loss, tokens = ranks.add_up(self.parameters, (made.loss, made.tokens), method.tallies())
        made.tokens = int(tokens)
        return made

    def _save_memory(self, numbers: Sequence[int]) -> str | None:
        """Hold less at once, in ways that change nothing of what is learned. Returns what to tell; None where none is left."""
        if self.limits.rows > 1 and len(numbers) > 1:
            self.limits = PassLimits(max(1, min(self.limits.rows, len(numbers)) // 2), self.limits.tokens)
            return f"Memory ran out; going on with at most {self.limits.rows} rows and {self.limits.tokens} tokens a pass."
        if self.material.engine.save_memory():
            return "Memory ran out; going on with blocks that are computed twice, which holds less and takes longer."
        return None

    # -- between two steps -----------------------------------------------------------------------------------------

    def _evaluate(self, validation: Method) -> Evaluated:
        loss = validation.validation_loss(self.material.engine, self.limits, lambda _: self.desk.watch.check())
        return Evaluated(loss, metrics=dict(validation.metrics()))

    def _fill(self, folder: Path) -> None:
        spec = self.material.spec
        base = spec.sources.base if spec.sources else None
        revision, head = base.revision if base else "", self.material.method.head
        self.material.engine.save_adapter(folder, base_model=spec.base_model, revision=revision, head=head)
        write_optimiser(folder, self.optimiser, self.named)
        self.material.method.save(folder)
