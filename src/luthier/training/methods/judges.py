"""A judge inside the trainer: the very base that is trained, without its adapter, tells how likely it finds each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthier.datasets.packing import PassLimits, grouped
from luthier.errors import Invalid
from luthier.graders.templates import Ungradable
from luthier.modeling.types import TrainingEngine
from luthier.training.batches import Row, pack


class Words(Protocol):
    """What a judge needs of a renderer."""

    end_id: int

    def prompt(self, messages: Sequence[Mapping[str, str]], /) -> list[int]: ...
    def plain(self, text: str, /) -> list[int]: ...


@dataclass(frozen=True)
class BaseJudge:
    """Asks the bare base, so that an adapter cannot learn to please itself as a judge."""

    engine: TrainingEngine
    words: Words
    limits: PassLimits
    context: int

    def __call__(self, messages: Sequence[Mapping[str, str]], answers: Sequence[str]) -> list[float]:
        """Natural-log probability of each whole answer, its end of turn included. Raises: Ungradable."""
        try:
            prompt = self.words.prompt(messages)
        except Invalid:
            raise Ungradable("the judge cannot be asked so: its messages are no conversation") from None
        rows = [_row(prompt, [*self.words.plain(answer), self.words.end_id]) for answer in answers]
        if max(len(row.ids) for row in rows) > self.context:
            raise Ungradable(f"what the judge is asked is longer than its context of {self.context} tokens")
        found: list[float] = []
        with self.engine.adapter_off():
            for part in grouped(rows, lambda row: len(row.ids), self.limits):
                logp_N = self.engine.logprobs(pack(part), training=False)
                found += [float(each.sum()) for each in logp_N.split([len(row.loss_at) for row in part])]
        return found


def _row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    return Row([*prompt, *answer], range(len(prompt) - 1, len(prompt) + len(answer) - 1))
