"""What a classifier can learn from, and what training one without a base will take: there a row counts where a language model
counts tokens. Pure."""

from __future__ import annotations

from luthier.bases import classifiers
from luthier.billing import rules as money
from luthier.billing.types import Price
from luthier.datasets.types import Dataset
from luthier.errors import FieldInvalid, counted
from luthier.jobs import estimation
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, MemoryEstimate

_OPERATIONS_A_ROW = 50e6
"""There and back through a small network, with room."""
_START_S = 15
_MODEL_BYTES = 50_000_000
_MOST_NAMED = 20
_RUNTIME_BYTES = 700_000_000
_WORDS, _VECTORS = 20_000, 22
"""A linear model has a weight for each word and class, and its solver remembers ten steps and ten gradients."""
_MEMORY_A_BYTE = 8
"""Of the data: numbers of four bytes, and their copy while they are read."""


def check(spec: RunSpec, dataset: Dataset, validation: Dataset | None) -> None:
    """Raises: FieldInvalid where the rows cannot teach classes, or measure what was taught."""
    report, held_out = dataset.report, validation.report if validation else None
    if report is None:
        return
    if spec.has_base and report.schema_name == "images":
        hint = "Leave `base_model` out: `classifier.model` names a network that learns images from scratch."
        raise FieldInvalid("A base model reads texts, and the rows are images.", hint=hint, param="base_model")
    if len(report.labels) == report.usable_rows > 2:
        said = f"Each of the {report.usable_rows} rows has a label of its own: rows of a class have nothing in common."
        raise FieldInvalid(said, hint="Is `label` the name of a class? Give several rows of each.", param="dataset")
    unknown = sorted(set(held_out.labels) - set(report.labels)) if held_out else []
    if unknown:
        said = (
            f"{len(unknown)} of {len(held_out.labels) if held_out else 0} labels of the validation rows are in no training row."
        )
        hint = "Split the rows so that the training rows have every label."
        raise FieldInvalid(said, hint=hint, param="validation_dataset", details={"labels": unknown[:_MOST_NAMED]})


def estimate(spec: RunSpec, dataset: Dataset, price: Price, measured: estimation.Measured | None) -> Estimate:
    """Time, memory and money. Raises: FieldInvalid where the steps do not fit together, or the run is no training."""
    if spec.kind != "train":
        raise FieldInvalid("A classifier can only be trained.", hint="Leave `kind` out.", param="kind")
    all_rows = dataset.rows or 1
    plan = estimation.plan_of(spec, all_rows)
    if spec.base_model in classifiers.IN_ONE_GO:
        plan = estimation.Plan(all_rows, steps_per_epoch=1, steps=1)
    estimation.check_steps(spec, plan)
    rows = -(-all_rows * plan.steps // plan.steps_per_epoch)
    rate = measured.tokens_per_second if measured else price.assumed_flops / _OPERATIONS_A_ROW
    seconds = max(1, round((measured.overhead_s if measured else _START_S) + rows / rate))
    note = (
        f"The median speed of {counted(measured.jobs, 'earlier job')} with this model on this hardware." if measured else _ASSUMED
    )
    memory = _memory(spec, dataset, price)
    fits = memory.available_bytes is None or memory.total_bytes <= memory.available_bytes
    return Estimate(
        rows=all_rows,
        tokens_per_epoch=all_rows,
        tokens=rows,
        epochs=round(plan.epochs, 3),
        steps=plan.steps,
        batch_size=plan.batch_size,
        tokens_per_second=round(rate, 1),
        seconds=seconds,
        basis="measured" if measured else "assumed",
        basis_note=note,
        hardware=price.hardware,
        hourly_usd=price.hourly_usd,
        cost_usd=money.usd(money.expected_micro_usd(price.micro_usd_per_hour, seconds)),
        memory=memory,
        fits=fits,
        advice=() if fits else ("Fewer rows, or smaller ones, need less memory.",),
    )


_ASSUMED = "Assumed, in rows for tokens; the first finished job replaces it."


def _memory(spec: RunSpec, dataset: Dataset, price: Price) -> MemoryEstimate:
    report = dataset.report
    features = _WORDS if report and report.schema_name == "labelled" else dataset.bytes // (dataset.rows or 1)
    weights = 8 * features * len(report.labels) if report and spec.base_model in classifiers.IN_ONE_GO else 0
    parts = {
        "base_bytes": 0,
        "adapter_bytes": _MODEL_BYTES + weights,
        "optimizer_bytes": _MODEL_BYTES + _VECTORS * weights,
        "activation_bytes": _MEMORY_A_BYTE * dataset.bytes,
        "logits_bytes": 0,
        "runtime_bytes": _RUNTIME_BYTES,
    }
    return MemoryEstimate(**parts, total_bytes=sum(parts.values()), available_bytes=price.memory_bytes)
