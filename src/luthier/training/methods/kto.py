"""Kahneman-Tversky optimisation: learn from single answers, each good or bad.

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306. With r = log pi(y|x) - log ref(y|x) (ref: the base without its
adapter) and z0 the divergence of pi from ref, an answer is worth (eq. 7)
v = lambda_D * sigmoid(beta * (r - z0)) if it is good, lambda_U * sigmoid(beta * (z0 - r)) if it is bad, and
L = mean of (lambda_y - v) over the answers of the step.
z0 is estimated as in section 4.1: the mean of r over answers that belong to OTHER questions of the data, not below 0, and
without a gradient. Here question i is matched with the answer of question i + 1, always the same, so that the reference of
both is measured once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from luthier.datasets.packing import PassLimits, grouped
from luthier.jobs.spec import KtoSpec
from luthier.training.batches import Row, Rows, pack
from luthier.training.method import Batch, Engine, Method, OnPass, Step, Tally
from luthier.training.methods.groups import Measured, row_sums

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Kto(Method):
    """A unit is a rated answer."""

    rows: Rows
    good: Sequence[bool]
    """Of each row."""
    spec: KtoSpec
    reference: Measured = field(default_factory=Measured)
    """By row: log ref of its answer, and of the other question's answer."""
    _told: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.rows)

    def prepare(self, engine: Engine, numbers: Sequence[int], limits: PassLimits, on_pass: OnPass) -> None:
        missing = self.reference.missing(numbers)
        with engine.adapter_off():
            own = array("d", self._sums(engine, map(self.rows.__getitem__, missing), limits, _half(on_pass, 0, len(missing))))
            others = self._sums(engine, map(self._mixed, missing), limits, _half(on_pass, 1, len(missing)))
            for number, ours, theirs in zip(missing, own, others, strict=True):
                self.reference.put(number, ours, theirs)

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        self._told = Tally()
        divergence = self._divergence(engine, step.numbers, limits)
        for numbers in grouped(step.numbers, self.rows.length, limits):
            packed = pack([self.rows[number] for number in numbers])
            yield Batch(packed, partial(self._loss, numbers, divergence, len(step.numbers)))

    def metrics(self) -> Mapping[str, float]:
        """Rewards in nats, and the divergence z0 that they are held against."""
        return self._told.means()

    def tallies(self) -> Sequence[Tally]:
        return (self._told,)

    def _divergence(self, engine: Engine, numbers: Sequence[int], limits: PassLimits) -> float:
        others = self._sums(engine, map(self._mixed, numbers), limits, lambda _: None)
        ratios = [ours - self.reference[number][1] for number, ours in zip(numbers, others, strict=True)]
        return max(0.0, sum(ratios) / len(ratios))

    def _loss(self, numbers: Sequence[int], divergence: float, answers_of_step: int, logp_N: Tensor) -> Tensor:
        counts = [self.rows.learned(number) for number in numbers]
        ratio_R = row_sums(logp_N, counts) - logp_N.new_tensor([self.reference[number][0] for number in numbers])
        good_R = logp_N.new_tensor([self.good[number] for number in numbers]).bool()
        self._told.add("reward_good", self.spec.beta * ratio_R[good_R])
        self._told.add("reward_bad", self.spec.beta * ratio_R[~good_R])
        self._told.add("divergence", logp_N.new_tensor([divergence]))
        return answer_losses(ratio_R, good_R, divergence, self.spec).sum() / answers_of_step

    def _mixed(self, number: int) -> Row:
        """The question of this row with the answer of the next."""
        question, other = self.rows[number], self.rows[(number + 1) % len(self.rows)]
        start, begin = question.loss_at[0] + 1, other.loss_at[0] + 1
        ids = [*question.ids[:start], *other.ids[begin:]]
        # A row is as long as its data allow; one made of two may not be longer than the longest of them.
        room = max(self.rows.longest, start + 1)
        return Row(ids[:room], [at - begin + start for at in other.loss_at if at - begin + start < min(room, len(ids)) - 1])

    @staticmethod
    def _sums(engine: Engine, rows: Iterable[Row], limits: PassLimits, on_pass: Callable[[int], None]) -> Iterator[float]:
        """log p of the answer of each row, as the engine is now. on_pass: told before each pass how many rows are done."""
        done = 0
        for part in grouped(rows, lambda row: len(row.ids), limits):
            on_pass(done)
            logp_N = engine.logprobs(pack(part), training=False)
            yield from row_sums(logp_N, [len(row.loss_at) for row in part]).tolist()
            done += len(part)


def _half(on_pass: OnPass, half: int, rows: int) -> Callable[[int], None]:
    """Tell the share of a whole whose first or second half these rows are."""
    return lambda done: on_pass((half + done / rows) / 2)


def answer_losses(ratio_R: Tensor, good_R: Tensor, divergence: float, spec: KtoSpec) -> Tensor:
    """lambda_y - v of each answer, shape (R,). ratio_R: log pi - log ref in nats; good_R: bool.

    >>> import torch
    >>> answer_losses(torch.zeros(2), torch.tensor([True, False]), 0.0, KtoSpec())  # nothing learned: half of lambda
    tensor([0.5000, 0.5000])
    """
    import torch

    gain_R = torch.where(good_R, ratio_R - divergence, divergence - ratio_R)
    weight_R = torch.where(good_R, spec.desirable_weight, spec.undesirable_weight)
    return weight_R * (1 - torch.sigmoid(spec.beta * gain_R))
