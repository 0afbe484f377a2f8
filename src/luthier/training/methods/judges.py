"""Judges inside the trainer: bases without an adapter say how likely they find each answer. The trained one may be among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier.datasets.packing import PassLimits, grouped
from luthier.graders.judging import Words, asked
from luthier.modeling.types import TrainingEngine
from luthier.training.batches import Row, pack


@dataclass(frozen=True)
class Judge:
    """A base that judges, and how it is spoken to. Whatever adapter it carries is off, so that none learns to please itself."""

    engine: TrainingEngine
    words: Words
    context: int
    most_tokens: int | None = None
    """Of a pass, where it is another base than the one whose limits are known."""

    def likely(self, messages: Sequence[Mapping[str, str]], answers: Sequence[str], limits: PassLimits) -> list[float]:
        """Natural-log probability of each whole answer, its end of turn included. Raises: Ungradable."""
        prompt, ids = asked(self.words, messages, answers, self.context)
        rows = [_row(prompt, answer) for answer in ids]
        fitting = PassLimits(limits.rows, min(limits.tokens, self.most_tokens or limits.tokens))
        found: list[float] = []
        with self.engine.adapter_off():
            for part in grouped(rows, lambda row: len(row.ids), fitting):
                logp_N = self.engine.logprobs(pack(part), training=False)
                found += [float(each.sum()) for each in logp_N.split([len(row.loss_at) for row in part])]
        return found


@dataclass(frozen=True)
class Bench:
    """All who judge in a run; implements `graders.judging.Judge`."""

    own: Judge
    """The base that is trained."""
    limits: PassLimits
    others: Mapping[str, Judge] = field(default_factory=dict[str, Judge])
    """By the names that graders have for them."""

    def __call__(self, model: str, messages: Sequence[Mapping[str, str]], answers: Sequence[str]) -> list[float]:
        """Raises: Ungradable."""
        return self.others.get(model, self.own).likely(messages, answers, self.limits)


def _row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    return Row([*prompt, *answer], range(len(prompt) - 1, len(prompt) + len(answer) - 1))
