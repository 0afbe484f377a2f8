"""Every `auto` resolved: pure decisions from the spec, the data and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from luthier.datasets.packing import PassLimits
from luthier.jobs import automatic
from luthier.jobs.spec import RunSpec

Device = Literal["cpu", "cuda", "mps"]
Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Fixed:
    """Choices that the machine had a say in. Made once and kept for every resume, so that the numbers stay the same."""

    batch_size: int
    tokens_per_pass: int
    threads: int
    device: Device
    precision: Precision
    engine: Literal["fast", "plain"] = "plain"
    recompute: bool = False
    """Blocks are computed twice, so that the longest row fits."""


@dataclass(frozen=True)
class Plan:
    """How the run goes, with no choice left open."""

    fixed: Fixed
    rows_per_step: int
    rows_per_pass: int
    steps_per_epoch: int
    total_steps: int
    eval_steps: int | None
    max_seq_len: int
    learning_rate: float
    epochs: int | None
    updates_per_batch: int = 1
    """Steps in a row that learn from the same units."""

    @property
    def limits(self) -> PassLimits:
        return PassLimits(self.rows_per_pass, self.fixed.tokens_per_pass)


def plan_of(spec: RunSpec, fixed: Fixed, rows: int, max_seq_len: int, hidden: int) -> Plan:
    """Steps and groups for this many rows. hidden: width of the base."""
    train = spec.train
    rows_per_step, steps_per_epoch, total = automatic.steps_of(spec, rows, fixed.batch_size)
    evaluates = spec.validation_dataset is not None
    return Plan(
        fixed=fixed,
        rows_per_step=rows_per_step,
        rows_per_pass=fixed.batch_size if train.packing else 1,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        eval_steps=(train.eval_steps or steps_per_epoch) if evaluates else None,
        max_seq_len=max_seq_len,
        learning_rate=automatic.rate_of(spec, hidden),
        epochs=None if train.max_steps else automatic.epochs_of(train, rows),
        updates_per_batch=spec.grpo.updates_per_batch if spec.grpo else 1,
    )


def resolved(spec: RunSpec, plan: Plan) -> dict[str, Any]:
    """The spec with every `auto` and None replaced by what was used: `results/config.yaml`."""
    data = spec.model_dump(mode="json")
    fixed = plan.fixed
    data["train"] |= {
        "batch_size": fixed.batch_size,
        "max_seq_len": plan.max_seq_len,
        "device": fixed.device,
        "precision": fixed.precision,
        "eval_steps": plan.eval_steps,
        "learning_rate": plan.learning_rate,
    }
    if plan.epochs is not None:
        data["train"]["epochs"] = plan.epochs
    return data
