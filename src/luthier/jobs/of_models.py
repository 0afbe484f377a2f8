"""Runs of the kinds evaluate and export: what a model brings along, and what they take. Pure but for the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.bases.types import Base
from luthier.billing import rules as money
from luthier.billing.types import Price
from luthier.errors import FieldInvalid
from luthier.jobs import automatic
from luthier.jobs.estimation import Measured
from luthier.jobs.sizes import DataSize
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, MemoryEstimate
from luthier.values import ModelSource

_START_S = 15
_RUNTIME_BYTES = 700_000_000
_ANSWER_TOKENS = 48
_WRITTEN_BYTES_PER_S = 100_000_000
_PROBE_TOKENS = 512
_FLOAT = 4


class Models(Protocol):
    """What jobs need of the registry, which stands above them."""

    def pinned(self, actor: Actor, ref: str) -> ModelSource:
        """The version that an id, a name or `name@3` stands for, and its files. Raises: NotFound, Gone, ModelNotReady."""
        ...

    def use(self, session: Session, actor: Actor, model_id: str, by: str) -> None:
        """Keep it from being deleted, in the caller's transaction. Raises: NotFound, Gone."""
        ...

    def release(self, session: Session, by: str) -> None:
        """Let go of all that `by` uses. Fine if it uses nothing."""
        ...


@dataclass(frozen=True)
class Named:
    """The models of a run, and the run that made the first of them, where that is known."""

    model: ModelSource
    against: ModelSource | None = None
    made_by: RunSpec | None = None


def models_of(spec: RunSpec) -> Iterator[str]:
    """Ids of the models that a frozen run needs."""
    yield from filter(None, (spec.model, spec.against))


def completed(spec: RunSpec, named: Named) -> RunSpec:
    """The run with all that its model says: base, method with its section, and for an evaluation the data and their length.

    What the request itself says counts. Raises: FieldInvalid where it does not go together.
    """
    model = named.model
    _check(spec, named)
    given: dict[str, Any] = spec.model_dump(exclude_unset=True)
    given |= {"model": model.id, "base_model": model.base.id}
    if named.against is not None:
        given["against"] = named.against.id
    if spec.kind == "export":
        return RunSpec.model_validate({**given, "method": model.method})
    made_by = named.made_by
    if "method" not in given:
        given["method"] = model.method
        section = getattr(made_by, model.method, None)
        if section is not None:
            given.setdefault(model.method, section.model_dump())
    if given["method"] == "grpo" and "grpo" not in given:
        raise FieldInvalid(
            "This model learned from a grader that is not known any more.",
            hint="Give `method: grpo` and a section `grpo` with a `grader`.",
            param="grpo",
            code="missing",
        )
    if made_by is not None:
        learned = {name: getattr(made_by.train, name) for name in ("max_seq_len", "precision", "quantization")}
        given["train"] = {**learned, **given.get("train", {})}
    if not spec.dataset:
        given["dataset"] = _own_dataset(made_by)
    return RunSpec.model_validate(given)


def _check(spec: RunSpec, named: Named) -> None:
    model, against = named.model, named.against
    if spec.base_model and spec.base_model != model.base.id:
        raise FieldInvalid(
            f"The model stands on {model.base.id}.", hint="Leave `base_model` out: the model brings its own.", param="base_model"
        )
    if model.method == "classifier":
        raise FieldInvalid(
            "This model is a classifier: it was measured by its training, and has no other form than its files.",
            hint="See its card (`model card`) and its files (`model download`). To measure it on other rows, train it with those "
            "as `validation_dataset`.",
            param="model",
        )
    if against is None:
        return
    if against.id == model.id:
        raise FieldInvalid("This is the model itself.", hint="Name another one, or leave it out.", param="against")
    if (against.base.id, against.base.revision) != (model.base.id, model.base.revision):
        raise FieldInvalid(
            f"Both must stand on the same base: {model.name} on {model.base.id}, {against.name} on {against.base.id}.",
            hint="Evaluate each by itself on the same dataset, and compare exact answers.",
            param="against",
        )


def _own_dataset(made_by: RunSpec | None) -> str:
    if made_by is None or made_by.validation_dataset is None:
        raise FieldInvalid(
            "The job that made this model had no `validation_dataset`.",
            hint="Name the dataset to measure on: `dataset: ds_...`.",
            param="dataset",
            code="missing",
        )
    return made_by.validation_dataset


@dataclass(frozen=True)
class Facts:
    """All that an estimate stands on."""

    spec: RunSpec
    named: Named
    base: Base
    data: DataSize | None
    """None in an export."""
    price: Price
    measured: Measured | None = None
    arrival_s: float = 0.0


def estimate(facts: Facts) -> Estimate:
    """Time, memory and money. A row counts once, whoever reads it."""
    measured, price, data = facts.measured, facts.price, facts.data
    rate = measured.tokens_per_second if measured else price.assumed_flops / (4 * facts.base.parameters)
    seconds = max(1, round(_START_S + facts.arrival_s + _work_s(facts, rate)))
    memory = _memory(facts)
    fits = memory.available_bytes is None or memory.total_bytes <= memory.available_bytes
    rows, asked = data.rows if data else 0, facts.spec.train.batch_size
    tokens = data.tokens if data else 0
    return Estimate(
        rows=rows,
        tokens_per_epoch=tokens,
        tokens=tokens,
        epochs=0.0,
        steps=0,
        batch_size=automatic.batch_size(rows) if asked == "auto" else asked,
        tokens_per_second=round(rate, 1),
        seconds=seconds,
        basis="measured" if measured else "assumed",
        basis_note=_note(measured, price),
        hardware=price.hardware,
        hourly_usd=price.hourly_usd,
        cost_usd=money.usd(money.expected_micro_usd(price.micro_usd_per_hour, seconds)),
        memory=memory,
        fits=fits,
        advice=() if fits else ("A machine with more memory.",),
    )


def _note(measured: Measured | None, price: Price) -> str:
    if measured is not None:
        return f"From the median training speed of {measured.jobs} earlier jobs with this base on this hardware."
    return f"Assumed: {price.assumed_flops / 1e9:,.0f} GFLOP/s on this hardware."


def _work_s(facts: Facts, rate: float) -> float:
    """Seconds after the start. rate: tokens a second there and back, so a pass without the way back counts half."""
    if facts.data is None:
        passes = 3 * facts.base.parameters * _FLOAT if _merges(facts.spec) else _files_bytes(facts)
        return passes / _WRITTEN_BYTES_PER_S + _PROBE_TOKENS / rate
    sides = 3 if facts.named.against is not None else 2
    answer = facts.spec.grpo.max_new_tokens * facts.spec.grpo.group_size if facts.spec.grpo else _ANSWER_TOKENS
    answers = min(facts.spec.evaluate.rows, facts.data.rows) * answer
    return sides * (facts.data.tokens / 2 + answers) / rate


def _memory(facts: Facts) -> MemoryEstimate:
    base, spec = facts.base, facts.spec
    width = 2 if "bf16" in (spec.train.precision, spec.export.precision if spec.export else None) else _FLOAT
    longest = _PROBE_TOKENS if facts.data is None else min(facts.data.longest, spec.train.max_seq_len or base.context)
    parts = {
        "base_bytes": base.parameters * width,
        "adapter_bytes": _files_bytes(facts),
        "optimizer_bytes": 0,
        "activation_bytes": longest * width * (8 * base.hidden + 4 * base.intermediate),
        "logits_bytes": longest * base.vocab * _FLOAT,
        "runtime_bytes": _RUNTIME_BYTES,
    }
    return MemoryEstimate(**parts, total_bytes=sum(parts.values()), available_bytes=facts.price.memory_bytes)


def _files_bytes(facts: Facts) -> int:
    models = filter(None, (facts.named.model, facts.named.against))
    return sum(file.bytes for model in models for file in model.files)


def _merges(spec: RunSpec) -> bool:
    return spec.export is not None and spec.export.format != "adapter"
