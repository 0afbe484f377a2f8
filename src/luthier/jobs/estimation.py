"""What a run will take: steps, time, memory. Pure; the service brings the data's size and the measured speed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from luthier.bases.types import TINY, Base
from luthier.billing import rules as money
from luthier.billing.types import Price
from luthier.errors import FieldInvalid, counted
from luthier.jobs import automatic, quantization
from luthier.jobs.judges import answers_graded, readings
from luthier.jobs.memory import Wanted, memory_of
from luthier.jobs.sizes import DataSize
from luthier.jobs.spec import RunSpec
from luthier.jobs.types import Estimate, MemoryEstimate

_START_S = 15
_BUILD_S = 60
_FETCH_BYTES_PER_S = 20_000_000
_ANSWER_TOKENS = 48
_SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True)
class Measured:
    """How fast earlier jobs with the same base on the same hardware were (medians)."""

    jobs: int
    tokens_per_second: float
    overhead_s: float
    fit_test: bool = False
    """No job, but a fit test of this very run."""


@dataclass(frozen=True)
class Facts:
    """All that an estimate stands on."""

    spec: RunSpec
    base: Base
    data: DataSize
    validation: DataSize | None
    price: Price
    measured: Measured | None = None
    base_is_here: bool = True
    judges: Mapping[str, Base] = field(default_factory=dict[str, Base])
    """Bases that graders ask, by the names that these have for them; the one that is trained may be among them."""
    memory_factor: float = 1.0
    """By which earlier jobs took more memory than the formula says."""


_FIT_STEPS = 3


@dataclass(frozen=True)
class Plan:
    """Steps and groups of a run. The trainer makes the same plan from the same numbers (a test holds them equal)."""

    batch_size: int
    steps_per_epoch: int
    steps: int

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch


def plan_of(spec: RunSpec, rows: int) -> Plan:
    """How the data are cut into steps."""
    batch = automatic.batch_size(rows) if spec.train.batch_size == "auto" else spec.train.batch_size
    _, steps_per_epoch, steps = automatic.steps_of(spec, rows, batch)
    return Plan(batch, steps_per_epoch, steps)


def check(facts: Facts, plan: Plan) -> None:
    """Refuse what cannot work, before anything is made. Raises: FieldInvalid."""
    base, train = facts.base, facts.spec.train
    if train.max_seq_len is not None and train.max_seq_len > base.context:
        raise FieldInvalid(
            f"`train.max_seq_len` is {train.max_seq_len}, but the context of {base.id} is {base.context} tokens.",
            hint=f"Use at most {base.context}, or leave it out.",
            param="train.max_seq_len",
        )
    check_quantization(facts.spec, facts.price)
    check_steps(facts.spec, plan)


def check_quantization(spec: RunSpec, price: Price) -> None:
    """Refuse a base in fewer bits where the hardware does not serve. The trainer looks again. Raises: FieldInvalid."""
    train = spec.train
    refused = quantization.refusal(train.quantization, "cpu" if price.kind == "cpu" else train.device)
    if refused is not None:
        raise FieldInvalid(refused[0], hint=refused[1], param="train.quantization")


def check_steps(spec: RunSpec, plan: Plan) -> None:
    """Refuse what can never come to be in so few steps. Raises: FieldInvalid."""
    train = spec.train
    for name, value in (("warmup_steps", train.warmup_steps), ("eval_steps", train.eval_steps or 0)):
        if value > plan.steps:
            raise FieldInvalid(
                f"`train.{name}` is {value}, but the run has {plan.steps} steps ({plan.epochs:g} epochs).",
                hint=f"Lower `train.{name}`, or raise `train.epochs`.",
                param=f"train.{name}",
            )


def estimate(facts: Facts) -> Estimate:
    """Time, memory and money of a run."""
    spec, plan = facts.spec, plan_of(facts.spec, facts.data.rows)
    if spec.kind == "fit_test":
        plan = replace(plan, steps=min(plan.steps, _FIT_STEPS))
    per_epoch = facts.data.cut(min(spec.train.max_seq_len or facts.base.context, facts.base.context)).tokens
    tokens = -(-per_epoch * plan.steps // plan.steps_per_epoch)
    rate, seconds, basis, note = _time(facts, plan, tokens)
    memory = _memory(facts, plan, spec)
    fits = _fits(facts, memory)
    return Estimate(
        rows=facts.data.rows,
        tokens_per_epoch=per_epoch,
        tokens=tokens,
        epochs=round(plan.epochs, 3),
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=automatic.rate_of(spec, facts.base.hidden),
        tokens_per_second=round(rate, 1),
        seconds=seconds,
        basis=basis,
        basis_note=note,
        hardware=facts.price.hardware,
        hourly_usd=facts.price.hourly_usd,
        cost_usd=money.usd(money.expected_micro_usd(facts.price.micro_usd_per_hour, seconds)),
        memory=memory,
        fits=fits,
        advice=() if fits else _advice(facts, plan),
    )


def unknown(price: Price) -> Estimate:
    """Of a run whose data is still being checked: nothing that could be counted."""
    memory = MemoryEstimate(
        base_bytes=0,
        adapter_bytes=0,
        optimizer_bytes=0,
        activation_bytes=0,
        logits_bytes=0,
        runtime_bytes=0,
        total_bytes=0,
        available_bytes=price.memory_bytes,
    )
    return Estimate(
        rows=0,
        tokens_per_epoch=0,
        tokens=0,
        epochs=0,
        steps=0,
        batch_size=0,
        tokens_per_second=0,
        seconds=0,
        basis="assumed",
        basis_note="The data is still being checked: what the run takes is known after that.",
        hardware=price.hardware,
        hourly_usd=price.hourly_usd,
        cost_usd=money.usd(0),
        memory=memory,
        fits=True,
    )


def larger_hardware(needed: int, prices: Sequence[Price], served: Collection[str]) -> str | None:
    """The cheapest hardware with that much memory, as an advice: of what jobs here can ask for, where any has it."""
    enough = [price for price in prices if price.memory_bytes is not None and price.memory_bytes >= needed]
    here = [price for price in enough if price.hardware in served]
    if not enough:
        return None
    best = min(here or enough, key=lambda price: price.micro_usd_per_hour)
    has = f"(${best.hourly_usd}/h) has {_gb(best.memory_bytes or 0)}"
    return f"`hardware: {best.hardware}` {has}." if here else f"{best.hardware} {has}, but nothing that runs here reaches it."


def together_bytes(jobs: Sequence[MemoryEstimate]) -> int:
    """What one trainer of all these jobs needs: base and process once, the adapter of each, and the widest pass.

    A trainer puts into one pass what fits into its share of the memory, never less than a row of one job.
    """
    passes = [job.activation_bytes + job.logits_bytes for job in jobs]
    known = [job.available_bytes for job in jobs if job.available_bytes is not None]
    widest = min(sum(passes), max(*passes, int(min(known) * _SHARE_OF_MEMORY))) if known else sum(passes)
    once = sum(max(getattr(job, name) for job in jobs) for name in ("base_bytes", "runtime_bytes", "correction_bytes"))
    return once + sum(job.adapter_bytes + job.optimizer_bytes + job.rows_bytes + job.judge_bytes for job in jobs) + widest


def _time(facts: Facts, plan: Plan, tokens: int) -> tuple[float, int, Literal["measured", "assumed"], str]:
    measured, judging = facts.measured, _judging_tokens(facts, plan)
    until_they_are_here = arrival_s(facts.base, here=facts.base_is_here) + sum(
        arrival_s(judge, here=judge.ready) for judge in facts.judges.values() if judge.id != facts.base.id
    )
    judged = f" What judges read counts as {judging:,} tokens." if judging else ""
    if measured is not None:
        seconds = measured.overhead_s + until_they_are_here + (tokens + judging) / measured.tokens_per_second
        earlier = f"The median speed of {counted(measured.jobs, 'earlier job')} with this base on this hardware."
        note = "As fast as a fit test of this run went through its longest rows." if measured.fit_test else earlier
        return measured.tokens_per_second, max(1, round(seconds)), "measured", f"{note}{judged}"
    # Forward and backward through a frozen base: 2 + 2 operations a weight and token.
    rate = facts.price.assumed_flops / (4 * facts.base.parameters)
    seconds = _START_S + until_they_are_here + (tokens + judging + _evaluation_tokens(facts, plan)) / rate
    note = f"Assumed: {facts.price.assumed_flops / 1e9:,.0f} GFLOP/s on this hardware; the first finished job replaces it."
    return rate, max(1, round(seconds)), "assumed", f"{note}{judged}"


def arrival_s(base: Base, *, here: bool) -> float:
    """Until the base lies on the machine: the shipped one is built there, others come over the network in two bytes a weight."""
    if here:
        return 0
    return _BUILD_S if base.id == TINY else 2 * base.parameters / _FETCH_BYTES_PER_S


def _evaluation_tokens(facts: Facts, plan: Plan) -> int:
    """Evaluation in tokens that cost as much to train: a forward pass is half a step, an answer is made by both models."""
    if facts.validation is None:
        return 0
    passes = plan.steps // (facts.spec.train.eval_steps or plan.steps_per_epoch) + 2
    answers = 2 * _ANSWER_TOKENS * min(facts.spec.evaluate.rows, facts.validation.rows)
    return facts.validation.tokens * passes // 2 + answers


def _judging_tokens(facts: Facts, plan: Plan) -> int:
    """What judges read, in tokens that cost as much to train: forward alone, through as many weights as each judge has."""
    grpo, base = facts.spec.grpo, facts.base
    if grpo is None or not facts.judges:
        return 0
    answers = answers_graded(facts.spec, grpo, plan.steps, plan.batch_size)
    if facts.validation is not None:
        answers += facts.validation.rows * (plan.steps // (facts.spec.train.eval_steps or plan.steps_per_epoch) + 1)
    asked = readings(grpo, facts.data.tokens // facts.data.rows)
    of_an_answer = sum(each.of_an_answer * facts.judges[each.model].parameters for each in asked) / base.parameters
    return int(answers * of_an_answer / 2)


def _memory(facts: Facts, plan: Plan, spec: RunSpec) -> MemoryEstimate:
    validation = facts.validation.rows if facts.validation else 0
    return memory_of(Wanted(spec, facts.base, facts.data, facts.price, plan.batch_size, validation, facts.judges))


def _advice(facts: Facts, plan: Plan) -> tuple[str, ...]:
    """Changes that would make it fit, each tried alone on the formula; first those that cost the result least."""
    train, lora = facts.spec.train, facts.spec.lora
    longest = min(facts.data.longest, train.max_seq_len or facts.base.context)
    kinds: list[list[dict[str, dict[str, Any]]]] = [
        [{"train": {"batch_size": size}} for size in _halves(plan.batch_size, 1)],
        [{"train": {"precision": "bf16"}}],
        [{"train": {"quantization": "8bit"}}, {"train": {"precision": "bf16", "quantization": "8bit"}}],
        [{"lora": {"rank": rank}} for rank in _halves(lora.rank, 4)],
        [{"train": {"max_seq_len": length}} for length in _halves(longest, 128)],
    ]
    found = filter(None, (_first_that_fits(facts, plan, kind) for kind in kinds))
    return (*_without_judges(facts, plan), *found, "A smaller base model needs less.")


def _without_judges(facts: Facts, plan: Plan) -> tuple[str, ...]:
    """Where other bases judge: what the run needs when the one that is trained does it."""
    if all(judge.id == facts.base.id for judge in facts.judges.values()):
        return ()
    alone = _memory(replace(facts, judges={}), plan, facts.spec)
    needs = _gb(int(alone.total_bytes * facts.memory_factor))
    return (f"With `model: {facts.base.id}` in the grader, the base that is trained as its judge, it needs {needs}.",)


def _fits(facts: Facts, memory: MemoryEstimate) -> bool:
    return memory.available_bytes is None or memory.total_bytes * facts.memory_factor <= memory.available_bytes


def _first_that_fits(facts: Facts, plan: Plan, kind: Sequence[dict[str, dict[str, Any]]]) -> str | None:
    for change in kind:
        sections = {name: getattr(facts.spec, name).model_copy(update=values) for name, values in change.items()}
        spec = facts.spec.model_copy(update=sections)
        memory = _memory(facts, replace(plan, batch_size=change.get("train", {}).get("batch_size", plan.batch_size)), spec)
        if _fits(facts, memory):
            words = [f"`{section}.{name}: {value}`" for section, values in change.items() for name, value in values.items()]
            return f"{' with '.join(words)} needs {_gb(int(memory.total_bytes * facts.memory_factor))}."
    return None


def _halves(number: int, least: int) -> list[int]:
    """
    >>> _halves(20, 4)
    [10, 5]
    """
    return [number >> shift for shift in range(1, 16) if number >> shift >= least]


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
