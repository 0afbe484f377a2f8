"""Whether two trainers did the same work: a faster one that does other work is no result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from racing import Step

_SHARE_DEVIATION = 0.1
"""Standard deviation, over packs, of the share of tokens with loss: LLaMA-Factory packs long rows with long ones."""


@dataclass(frozen=True)
class Sameness:
    """What the steps of ours and of a peer have to show."""

    expected: Sequence[tuple[int, int]]
    """Tokens and loss tokens of each step's rows, from the data themselves."""
    first: float
    """Largest relative difference of the first step's losses: no weight has moved yet, only rounding differs."""
    later: float
    """The same for all steps. Adapters begin with other random numbers, so they move apart."""
    same_rows: bool = True
    """Whether the peer's steps see the rows that ours see. Where it packs rows of its own choice, means are compared."""

    def complaints(self, rounds: Sequence[tuple[Step, Step]]) -> list[str]:
        """What differs, in words; nothing where all is well. `rounds`: all steps from the first on, (ours, theirs)."""
        ours, theirs = zip(*rounds, strict=True)
        if self.same_rows:
            return [*self._counts(ours), *self._counts(theirs), *self._losses(rounds)]
        return [*self._counts(ours), *self._shares(theirs), *self._means(rounds)]

    def gap(self, rounds: Sequence[tuple[Step, Step]]) -> float:
        """How far apart the losses are, relative to ours."""
        if self.same_rows:
            return max(apart(one, other) for one, other in rounds)
        ours, theirs = (statistics.mean(step.loss for step in steps) for steps in zip(*rounds, strict=True))
        return abs(ours - theirs) / ours

    def _counts(self, steps: Sequence[Step]) -> Iterator[str]:
        for step, (tokens, loss_tokens) in zip(steps, self.expected, strict=False):
            if step.tokens_per_adapter != tokens or step.loss_tokens not in (None, loss_tokens):
                yield f"step {step.step}: {step.tokens} tokens, {step.loss_tokens} with loss, not {tokens}, {loss_tokens}"

    def _shares(self, steps: Sequence[Step]) -> Iterator[str]:
        tokens, loss_tokens = (sum(column) for column in zip(*self.expected, strict=True))
        share = sum(step.loss_tokens or 0 for step in steps) / sum(step.tokens for step in steps)
        if abs(share - loss_tokens / tokens) > 3 * _SHARE_DEVIATION / math.sqrt(len(steps)):
            yield f"{share:.1%} of its tokens carry loss, of ours {loss_tokens / tokens:.1%}"

    def _losses(self, rounds: Sequence[tuple[Step, Step]]) -> Iterator[str]:
        for place, (one, other) in enumerate(rounds):
            if apart(one, other) > (self.later if place else self.first):
                yield f"step {one.step}: loss {one.loss:.6f}, theirs {other.loss:.6f}"

    def _means(self, rounds: Sequence[tuple[Step, Step]]) -> Iterator[str]:
        if self.gap(rounds) > self.later:
            yield f"the losses differ by {self.gap(rounds):.2%} in the mean"


def apart(one: Step, other: Step) -> float:
    return abs(one.loss - other.loss) / one.loss
