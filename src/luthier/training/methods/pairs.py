"""Pairs of answers to one question, the better and the worse, as rows of tokens: the data of DPO and ORPO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from luthier.datasets.packing import PassLimits, grouped
from luthier.modeling.types import Packed
from luthier.training.batches import Rows, pack
from luthier.training.method import Batch, Engine, Method, Step, Tally
from luthier.training.methods.groups import row_sums

_TIE = 1e-4

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairPass:
    """Some pairs of a step, laid end to end: chosen, rejected, chosen, rejected, ..."""

    numbers: Sequence[int]
    """Of the P pairs."""
    packed: Packed
    counts: Sequence[int]
    """Loss tokens of each of the 2P rows."""

    def sums(self, logp_N: Tensor) -> tuple[Tensor, Tensor]:
        """log p(answer | question) of the chosen and of the rejected answers, shape (P,) each."""
        chosen_P, rejected_P = row_sums(logp_N, self.counts).view(-1, 2).unbind(1)
        return chosen_P, rejected_P

    def lengths(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Loss tokens of the chosen and of the rejected answers, shape (P,) each."""
        chosen_P, rejected_P = like.new_tensor(self.counts).view(-1, 2).unbind(1)
        return chosen_P, rejected_P


@dataclass
class PairMethod(Method):
    """A unit is a pair. What its loss is, subclasses say."""

    rows: Rows
    _told: Tally = field(default_factory=Tally, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows) // 2

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        del engine
        self._told = Tally()
        chosen_tokens = sum(self.rows.learned(2 * number) for number in step.numbers)
        of_step = OfStep(len(step.numbers), chosen_tokens)
        for part in pair_passes(self.rows, step.numbers, limits):
            yield Batch(part.packed, partial(self.loss, part, of_step))

    def metrics(self) -> Mapping[str, float]:
        """Rewards in nats; `accuracy` is the share of pairs whose chosen answer is ahead."""
        return self._told.means()

    def tallies(self) -> Sequence[Tally]:
        return (self._told,)

    @abstractmethod
    def loss(self, part: PairPass, of_step: OfStep, logp_N: Tensor) -> Tensor:
        """The share, shape (), that these pairs have in the step's loss."""


@dataclass(frozen=True)
class OfStep:
    """What a whole step holds."""

    pairs: int
    chosen_tokens: int


def pair_passes(rows: Rows, numbers: Sequence[int], limits: PassLimits) -> Iterator[PairPass]:
    """The pairs of these numbers in order; pair i is the rows 2i (chosen) and 2i + 1 (rejected)."""
    for of_pass in grouped(numbers, lambda pair: rows.length(2 * pair) + rows.length(2 * pair + 1), limits):
        both = [rows[number] for pair in of_pass for number in (2 * pair, 2 * pair + 1)]
        yield PairPass(of_pass, pack(both), [len(row.loss_at) for row in both])


def wins(margin_P: Tensor) -> Tensor:
    """1 for each pair whose chosen answer is ahead, a half where rounding alone would decide.

    >>> import torch
    >>> wins(torch.tensor([2.0, -2.0, 1e-6]))
    tensor([1.0000, 0.0000, 0.5000])
    """
    return (margin_P > _TIE).float() / 2 + (margin_P > -_TIE).float() / 2
