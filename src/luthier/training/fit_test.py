"""Does a run fit, and how fast is it? Measured on its longest rows, on the machine that would train it, in some seconds.

The rows go through the model and back as in a step, so whatever the run would take it takes here; nothing is learned from
them. Where memory runs out the same is tried with half the rows at once, as the run itself would do.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from luthier.datasets.packing import PassLimits, grouped
from luthier.modeling.types import Packed
from luthier.training import export, machine
from luthier.training.batches import Row
from luthier.training.failures import AttemptFailed, is_out_of_memory
from luthier.training.gang import Pass, Repeat, Work
from luthier.training.method import Method
from luthier.training.reading import read_data
from luthier.training.run import Run, fetch_base_of
from luthier.training.tuning import Trained, make

_STEPS = 3
_TIGHT = 0.9
"""Others on the machine may need a tenth."""


@dataclass(frozen=True)
class Fit:
    """`results/fit_test.json`. Bytes are those of the process, or of the GPU; seconds are of the fastest of some steps."""

    fits: bool
    units: int
    """Rows, pairs or prompts of the step that was measured: the longest that the data have."""
    tokens: int
    """Of that step."""
    passes: int
    """In how many parts it had to go through the model."""
    step_seconds: float
    tokens_per_second: float
    total_seconds: float
    """Of the whole run at that pace; shorter rows take less."""
    peak_memory_bytes: int
    available_memory_bytes: int
    engine: str
    recompute: bool
    advice: tuple[str, ...]


def measure_fit(run: Run) -> Work[None]:
    """The work of a run of the kind `fit_test`. Raises: AttemptFailed (`out_of_memory`) where not even one row fits."""
    base = fetch_base_of(run)
    data = read_data(run, base)
    available = machine.free_bytes(machine.resolve_device(run.spec.train.device))
    made = make(run, base, data)
    run.journal.phase("measuring", "Measuring the longest rows.")
    found = yield from _smallest_that_fits(run, made, data.method)
    fit = _fit(made, found, available)
    export.publish_json(run.attempt, "fit_test.json", asdict(fit))
    run.journal.facts(peak_memory_bytes=fit.peak_memory_bytes, tokens_per_second=fit.tokens_per_second)
    size = f"{fit.peak_memory_bytes / 1e9:.1f} of {available / 1e9:.1f} GB"
    run.journal.event(
        "eval", f"It fits: {size} at {fit.tokens_per_second:.0f} tokens/s. {' '.join(fit.advice)}".strip(), asdict(fit)
    )


@dataclass(frozen=True)
class _Measured:
    units: int
    tokens: int
    passes: int
    seconds: float
    twice: bool
    """Blocks had to be computed twice, where the plan did not foresee it."""


def longest_units(method: Method, most: int) -> list[list[Row]]:
    """The rows of the units with the most tokens, as many units as a step has."""
    units = (method.unit(number) for number in range(len(method)))
    return heapq.nlargest(most, units, key=_tokens)


def _tokens(unit: Sequence[Row]) -> int:
    return sum(len(row.ids) for row in unit)


def _smallest_that_fits(run: Run, made: Trained, method: Method) -> Work[_Measured]:
    limits, units = made.plan.limits, longest_units(method, made.plan.rows_per_step)
    twice = False
    while True:
        packs = [method.packed([row for unit in group for row in unit]) for group in grouped(units, _tokens, limits)]
        try:
            seconds = yield from _measured(run, made, packs, limits)
            return _Measured(len(units), sum(len(packed.ids_T) for packed in packs), len(packs), seconds, twice)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if limits.rows == 1 and made.engine.save_memory():
                twice = True
                continue
            if limits.rows == 1:
                raise AttemptFailed(
                    "out_of_memory",
                    f"Not even the longest row alone ({len(units[0][0].ids)} tokens) fits into memory.",
                    "Lower `train.max_seq_len` or `lora.rank`, use `train.precision: bf16` or `train.quantization: 8bit`, a "
                    "smaller base or a larger machine.",
                ) from None
            limits = PassLimits(max(1, min(limits.rows, len(units)) // 2), limits.tokens)


def _measured(run: Run, made: Trained, packs: Sequence[Packed], limits: PassLimits) -> Work[float]:
    """Seconds of the fastest of some steps."""
    best = float("inf")
    for number in range(_STEPS):
        run.progress(number / _STEPS)
        began = time.perf_counter()
        for packed in packs:
            with contextlib.suppress(Repeat):  # beside others the pass was tried, and goes alone from now on
                yield Pass(made.engine, packed, torch.ones_like, limits.tokens)
        best = min(best, time.perf_counter() - began)
    for parameter in made.engine.parameters.values():
        parameter.grad = None
    return best


def _fit(made: Trained, found: _Measured, available: int) -> Fit:
    fixed = made.plan.fixed
    peak, advice = machine.peak_bytes(fixed.device), list[str]()
    if peak > _TIGHT * available:
        advice.append("Little room is left: a lower `train.batch_size` or `train.max_seq_len` makes more.")
    if found.passes > 1:
        advice.append(f"A step goes through in {found.passes} parts; that costs no quality.")
    if fixed.recompute or found.twice:
        advice.append("Blocks are computed twice to save memory: a lower `train.max_seq_len` would be faster.")
    return Fit(
        fits=True,
        units=found.units,
        tokens=found.tokens,
        passes=found.passes,
        step_seconds=round(found.seconds, 4),
        tokens_per_second=round(found.tokens / found.seconds, 1),
        total_seconds=round(found.seconds * made.plan.total_steps, 1),
        peak_memory_bytes=peak,
        available_memory_bytes=available,
        engine=fixed.engine,
        recompute=fixed.recompute or found.twice,
        advice=tuple(advice),
    )
