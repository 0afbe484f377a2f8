"""The proof of an export: questions that the model answered, put to the files as their next owner loads them.

Each answer is gone through token by token, so one that differs early does not hide the rest. What is measured: whether the same
token is the likeliest, how far its log-probability moved, whether the answer ends where it ended, and whether the file's own
tokenizer and template make the same tokens of a question. What a format may lose stands in `TOLERANCES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.modeling.types import Sampling
from luthier.training.method import Engine

ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same model."""

    logit: float
    """Largest change of a logit, relative to the largest logit."""
    agreement: float
    """Smallest share of tokens that are the likeliest again, not counting those that another one equals but for rounding."""
    nats: float
    """Largest mean change of a token's log-probability."""
    tie: float
    """Two logits that differ by less, relative to the largest logit, are the same but for rounding."""


TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(1e-3, 1.0, 1e-3, 2e-3),
    "f32": Tolerance(1e-3, 1.0, 1e-3, 2e-3),
    "float16": Tolerance(0.02, 1.0, 0.02, 0.04),
    "f16": Tolerance(0.02, 1.0, 0.02, 0.04),
    "bfloat16": Tolerance(0.06, 1.0, 0.05, 0.12),
    "q8_0": Tolerance(0.08, 1.0, 0.05, 0.16),
    "q6_k": Tolerance(0.1, 0.95, 0.1, 0.05),
    "q5_k_m": Tolerance(0.15, 0.92, 0.15, 0.05),
    "q4_k_m": Tolerance(0.25, 0.88, 0.2, 0.05),
}
"""By how the matrices are stored: all of them were rounded once more. Quantised weights are another model in small things."""


@dataclass(frozen=True)
class Answered:
    """A question with the model's most likely answer, the token that ended it among it."""

    ids: Sequence[int]
    start: int
    """Where the answer begins."""
    logits_NV: Tensor
    """What the model thought before each of its N tokens."""
    stopped: bool


@dataclass(frozen=True)
class Loaded:
    """An export as somebody else has it in memory."""

    by: str
    """What loaded it, for people."""
    logits: Callable[[Sequence[int]], Tensor]
    """Of each next token, shape (T, V)."""
    encode: Callable[[str], Sequence[int]] | None = None
    """Tokens of a text, special ones spelled out; None where the export brings no tokenizer of its own."""
    template: str | None = None
    """The chat template that it brings."""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Spoken:
    """How the model's own tokenizer writes its prompts."""

    texts: Sequence[tuple[str, Sequence[int]]]
    template: str | None


@dataclass(frozen=True)
class Measured:
    """What a replay found."""

    max_logit_gap: float
    worst_allowed: float
    """Largest logit gap, as a share of what is allowed."""
    tokens_compared: int
    token_agreement: float
    """Share of tokens that are the likeliest again."""
    agreement_but_ties: float
    mean_logprob_gap: float
    max_logprob_gap: float
    stops_compared: int
    stop_agreement: float
    """Share of answers that end where they ended; 1 where none ended."""
    template: bool | None
    """Whether its own template and tokenizer make the same tokens; None where it brings none."""


def answers_of(engine: Engine, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], most: int) -> list[Answered]:
    """The most likely answers of the model as it is trained and served, each of at most `most` tokens."""
    completions = engine.generate(prompts, Sampling(max_new_tokens=most, stop_ids=stop_ids))
    found: list[Answered] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        end = () if completion.stop_id is None else (completion.stop_id,)
        ids = [*prompt, *completion.token_ids, *end]
        logits_NV = engine.logits(ids)[len(prompt) - 1 : -1]
        found.append(Answered(ids, len(prompt), logits_NV, bool(end)))
    return found


def measure(loaded: Loaded, answered: Sequence[Answered], spoken: Spoken, tolerance: Tolerance) -> Measured:
    """The answers once more, by what was exported."""
    each = [_compared(loaded.logits(answer.ids)[answer.start - 1 : -1].float(), answer, tolerance) for answer in answered]
    gaps_N = torch.cat([one.logp_gaps_N for one in each])
    stops = [one.last_agrees for one, answer in zip(each, answered, strict=True) if answer.stopped]
    same_N, near_N = torch.cat([one.same_N for one in each]), torch.cat([one.near_N for one in each])
    return Measured(
        max_logit_gap=_worst(one.gap for one in each),
        worst_allowed=_worst(one.share for one in each),
        tokens_compared=len(same_N),
        token_agreement=float(same_N.float().mean()),
        agreement_but_ties=float((same_N | near_N).float().mean()),
        mean_logprob_gap=float(gaps_N.mean()),
        max_logprob_gap=float(gaps_N.max()),
        stops_compared=len(stops),
        stop_agreement=sum(stops) / len(stops) if stops else 1.0,
        template=_speaks_alike(loaded, spoken),
    )


def verdict(found: Measured, allowed: Tolerance) -> str | None:
    """Why this is not the same model, in words with the numbers; None where it is.

    Every comparison is written so that NaN does not pass.
    """
    if not found.worst_allowed <= 1:
        return f"A logit of the exported files is off by {found.max_logit_gap:.2g}: {found.worst_allowed:.2g} times what may be."
    if not found.agreement_but_ties >= allowed.agreement:
        return (
            f"The exported files give another answer than the model: {found.agreement_but_ties:.1%} of {found.tokens_compared} "
            f"tokens are the likeliest again, and at least {allowed.agreement:.0%} must be."
        )
    if not found.mean_logprob_gap <= allowed.nats:
        moved = f"{found.mean_logprob_gap:.2g} nats on average"
        return f"Tokens' log-probabilities moved by {moved}, and at most {allowed.nats:g} may be."
    if not found.stop_agreement >= allowed.agreement:
        return f"Only {found.stop_agreement:.0%} of {found.stops_compared} answers end where the model ends them."
    if found.template is False:
        return "The exported tokenizer and template make other tokens of a question than the model was trained on."
    return None


def as_checks(found: Measured, allowed: Tolerance, by: str) -> dict[str, Any]:
    """For `results/export.json`, of a replay that passed."""
    told = {name: _short(value) for name, value in asdict(found).items() if name != "worst_allowed"}
    return {"loads_again": True, "same_answers": True, "loaded_by": by, **told, "tolerance": asdict(allowed)}


@dataclass(frozen=True)
class _Compared:
    gap: float
    share: float
    same_N: Tensor
    near_N: Tensor
    logp_gaps_N: Tensor
    last_agrees: bool


def _compared(logits_NV: Tensor, answer: Answered, tolerance: Tolerance) -> _Compared:
    allowed = tolerance.logit * float(answer.logits_NV.abs().max())
    gap = float((logits_NV - answer.logits_NV).abs().max())
    answer_N1 = torch.tensor(answer.ids[answer.start :])[:, None]
    likeliest_N = logits_NV.max(-1).values
    given_N = logits_NV.gather(-1, answer_N1)[:, 0]
    # The token that was the likeliest is so again, or another one equals it but for rounding.
    logp_N, before_N = (each.log_softmax(-1).gather(-1, answer_N1)[:, 0] for each in (logits_NV, answer.logits_NV))
    near_N = likeliest_N - given_N <= tolerance.tie * float(answer.logits_NV.abs().max())
    same_N = likeliest_N == given_N
    gaps_N = (logp_N - before_N).abs()
    return _Compared(gap, gap / allowed if allowed else math.inf, same_N, near_N, gaps_N, bool(same_N[-1] | near_N[-1]))


def _worst(values: Any) -> float:
    """The largest, and NaN where one is: `max` alone would lose it."""
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def _speaks_alike(loaded: Loaded, spoken: Spoken) -> bool | None:
    if loaded.encode is None:
        return None
    same = all(list(loaded.encode(text)) == list(ids) for text, ids in spoken.texts)
    return same and loaded.template == spoken.template


def _short(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
