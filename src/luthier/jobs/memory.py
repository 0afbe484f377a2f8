"""What a trainer holds at its peak, by what needs it: one formula, each term with its name. Pure.

It is held against the memory of real trainers in `benchmarks/estimates.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt

from luthier.bases.footprint import BF16_PAYS_FROM, KEPT_SCORES_TO, numbers_in_passing, numbers_per_token
from luthier.bases.types import Base, BaseShape
from luthier.billing.types import Price
from luthier.jobs import automatic, quantization
from luthier.jobs.judges import readings
from luthier.jobs.sizes import DataSize
from luthier.jobs.spec import LoraSpec, RunSpec
from luthier.jobs.types import MemoryEstimate

RUNTIME_BYTES = 550_000_000
"""Python, torch and transformers, and the code that is compiled for the shapes of products."""
CLASSES_BYTES = 80_000_000
"""What measures classifiers, beside that."""
_GPU_RUNTIME_BYTES = 700_000_000
_PAIRED = ("dpo", "orpo")
_WIDEST = 2.5
"""Standard deviations above the mean at which the widest pass of a run lies."""
_PADDED = 1.25
"""Rows of similar length lie under each other, as long as the longest of them."""
_KEPT_BY_THE_ALLOCATOR = 1.25
"""Passes of changing sizes leave holes that the next one does not fill."""
_HEAD_ROWS = 128
_HEAD_NUMBERS = 3
"""Logits of a chunk, their type of four bytes, and their slopes."""
_ADAPTER_NUMBERS = 3
"""Each weight, its gradient, and the copy in the type of the pass."""
_FLOAT = 4
_ROW_BYTES, _TOKEN_BYTES = 32, 8
_PROBED_ROWS, _PROBED_TOKENS = 6, 256
"""Whose logits stand side by side when the adapter is checked in the end."""
_GROUPED = 32
"""Questions that are answered together where a model is compared with its base."""
_ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Wanted:
    """All that the memory of a run depends on."""

    spec: RunSpec
    base: Base
    data: DataSize
    price: Price
    batch_size: int
    validation_rows: int = 0
    judges: Mapping[str, Base] = field(default_factory=dict[str, Base])
    """Bases that graders ask, by the names that these have for them."""


def memory_of(wanted: Wanted) -> MemoryEstimate:
    """The peak of a trainer that trains this run alone."""
    spec, base, available = wanted.spec, wanted.base, wanted.price.memory_bytes
    width, adapter = number_bytes(wanted), adapter_parameters(base, spec.lora)
    runtime = (RUNTIME_BYTES if on_cpu(wanted) else _GPU_RUNTIME_BYTES) + (CLASSES_BYTES if spec.method == "classifier" else 0)
    training = {
        "base_bytes": quantization.base_bytes(base, spec.train.quantization, width),
        "adapter_bytes": adapter * _FLOAT * _ADAPTER_NUMBERS,
        "optimizer_bytes": adapter * _FLOAT * 2,
        "activation_bytes": max(_pass_bytes(wanted), _answers_bytes(wanted), _checks_bytes(wanted)),
        "logits_bytes": 0 if spec.method == "classifier" else _HEAD_ROWS * base.vocab * _FLOAT * _HEAD_NUMBERS,
        "rows_bytes": wanted.data.tokens * _TOKEN_BYTES + wanted.data.rows * _ROW_BYTES,
        "judge_bytes": _judges_bytes(wanted),
        "runtime_bytes": runtime,
    }
    loading = runtime + base.parameters * width  # whole, before it is put into fewer bits
    parts = {**training, "loading_bytes": max(0, loading - sum(training.values()))}
    return MemoryEstimate(**parts, total_bytes=sum(parts.values()), available_bytes=available)


def on_cpu(wanted: Wanted) -> bool:
    return wanted.price.kind == "cpu" or wanted.spec.train.device == "cpu"


def number_bytes(wanted: Wanted) -> int:
    """Of a weight and of a number that passes, as the trainer will choose."""
    precision = wanted.spec.train.precision
    if precision == "auto":
        pays = wanted.price.bf16 and wanted.base.parameters >= BF16_PAYS_FROM
        return 2 if pays or not on_cpu(wanted) else _FLOAT
    return 2 if precision == "bf16" else _FLOAT


def pass_tokens(wanted: Wanted) -> tuple[int, int]:
    """Tokens of the widest pass, and the attention scores that each of them has there in a head."""
    spec, data = wanted.spec, _answered(wanted)
    available = wanted.price.memory_bytes
    alone = _scores_alone(data.longest)
    limit = automatic.TOKENS_PER_PASS if on_cpu(wanted) else automatic.GPU_TOKENS_PER_PASS
    if available is not None:
        per_token = number_bytes(wanted) * numbers_per_token(wanted.base, min(data.longest, KEPT_SCORES_TO))
        limit = automatic.tokens_per_pass(per_token, on_cpu=on_cpu(wanted), free_bytes=available)
    each, units = (2 if spec.method in _PAIRED else 1), wanted.batch_size if spec.train.packing else 1
    mean, deviation = data.tokens / data.rows, each * data.deviation
    widest = min(units * each * data.longest, units * mean + _WIDEST * sqrt(units) * deviation)
    longest = each * data.longest
    if longest >= min(widest, limit):
        return longest, alone
    return int(min(widest, limit)), min(_scores_together(data), KEPT_SCORES_TO)


def adapter_parameters(base: BaseShape, lora: LoraSpec) -> int:
    """Trainable weights: rank x (inputs + outputs) of each linear layer that learns.

    >>> from luthier.bases.types import BaseShape
    >>> shape = BaseShape(hidden=2, intermediate=3, layers=1, heads=1, kv_heads=1, head_dim=2, vocab=5, context=9)
    >>> adapter_parameters(shape, LoraSpec(rank=1))
    31
    """
    query, key = base.heads * base.head_dim, base.kv_heads * base.head_dim
    widths = {
        "q_proj": base.hidden + query,
        "k_proj": base.hidden + key,
        "v_proj": base.hidden + key,
        "o_proj": query + base.hidden,
        "gate_proj": base.hidden + base.intermediate,
        "up_proj": base.hidden + base.intermediate,
        "down_proj": base.intermediate + base.hidden,
    }
    names = widths if lora.targets == "all-linear" else lora.targets
    return lora.rank * base.layers * sum(widths[name] for name in names)


def _pass_bytes(wanted: Wanted) -> int:
    """There and back through the base, with room for what the allocator keeps of earlier passes."""
    tokens, scores = pass_tokens(wanted)
    available, width = wanted.price.memory_bytes, number_bytes(wanted)
    held = width * numbers_per_token(wanted.base, scores)
    if available is not None and automatic.needs_recompute(held * min(tokens, _answered(wanted).longest), available):
        held = width * numbers_per_token(wanted.base, scores, recompute=True)
    return int(tokens * held * (_KEPT_BY_THE_ALLOCATOR if on_cpu(wanted) else 1))


def _answers_bytes(wanted: Wanted) -> int:
    """Keys and values of the answers that are sampled together, to learn from them or to compare models."""
    spec, base, longest = wanted.spec, wanted.base, _answered(wanted).longest
    asked = min(_GROUPED, spec.evaluate.rows, wanted.validation_rows)
    length = longest + _ANSWER_TOKENS
    if spec.grpo is not None:
        asked, length = wanted.batch_size * spec.train.gradient_accumulation * spec.grpo.group_size, longest
    kept = asked * length * 2 * base.layers * base.kv_heads * base.head_dim * number_bytes(wanted)
    return kept + asked * base.vocab * _FLOAT * 2


def _judges_bytes(wanted: Wanted) -> int:
    """Weights of the bases that judge and are not trained, and the widest pass of one of them; it has no way back."""
    others = {base.id: base for base in wanted.judges.values() if base.id != wanted.base.id}
    if wanted.spec.grpo is None or not others:
        return 0
    held = [(base, number_bytes(replace(wanted, base=base))) for base in others.values()]
    weights = sum(quantization.base_bytes(base, wanted.spec.train.quantization, width) for base, width in held)
    asked = list(readings(wanted.spec.grpo, wanted.data.longest))
    passes = [
        min(automatic.TOKENS_PER_PASS, each.of_an_answer) * numbers_in_passing(base, min(each.tokens, KEPT_SCORES_TO)) * width
        for base, width in held
        for each in asked
        if wanted.judges[each.model].id == base.id
    ]
    return weights + max(passes) + _HEAD_ROWS * max(base.vocab for base, _ in held) * _FLOAT * _HEAD_NUMBERS


def _checks_bytes(wanted: Wanted) -> int:
    """Logits of some rows, as the adapter gives them before and after it was saved."""
    if wanted.spec.method == "classifier":
        return 0
    return _PROBED_ROWS * min(_PROBED_TOKENS, _answered(wanted).longest) * wanted.base.vocab * _FLOAT


def _answered(wanted: Wanted) -> DataSize:
    """The rows as they go through the model: cut, and with the answers that are sampled to them."""
    spec, base, data = wanted.spec, wanted.base, wanted.data
    if spec.grpo is None:
        return data.cut(min(spec.train.max_seq_len or base.context, base.context))
    more = spec.grpo.max_new_tokens
    longest = min(base.context, data.longest + more)
    lengths = [(min(length + more, longest), rows) for length, rows in data.lengths]
    return DataSize(data.rows, data.tokens + data.rows * more, longest, lengths)


def _scores_alone(longest: int) -> int:
    """Of the longest row by itself."""
    return longest if longest <= KEPT_SCORES_TO else 0


def _scores_together(data: DataSize) -> int:
    """Of a token of many rows: a long row has more tokens, and each of them more scores."""
    total = sum(length * rows for length, rows in data.lengths)
    if not total:
        return data.longest
    squares = sum(length**2 * rows for length, rows in data.lengths if length <= KEPT_SCORES_TO)
    return int(_PADDED * squares / total)
