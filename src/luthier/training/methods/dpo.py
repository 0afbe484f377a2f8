"""Direct preference optimisation: make the chosen answer likelier than the rejected one, beside what the base thinks of both.

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. With x a question, w and l its chosen and rejected answer, pi the
model and ref the same base without its adapter, an answer's implicit reward is (up to a constant of the question, eq. 5)
r(x, y) = beta * (log pi(y|x) - log ref(y|x)), and with the margin m = r(x, w) - r(x, l):

- sigmoid, eq. 7:  -log sigmoid(m); with label smoothing e, a pair is taken to be the wrong way round with probability e:
  -(1 - e) * log sigmoid(m) - e * log sigmoid(-m).  https://arxiv.org/abs/2305.18290, app. of cDPO
- hinge:  max(0, 1 - m).  SLiC, https://arxiv.org/abs/2305.10425
- ipo:  (h - 1 / (2 * beta))^2, eq. 17 of https://arxiv.org/abs/2310.12036, where h is the difference of the log-ratios a
  TOKEN: the authors' own experiments divide by length, which the paper does not say.

The loss of a step is the mean over its pairs, plus `sft_weight` times the mean negative log-likelihood of the tokens of all
its chosen answers. The reference is measured once, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.datasets.packing import PassLimits
from luthier.jobs.spec import DpoSpec
from luthier.training.method import Engine, OnPass
from luthier.training.methods.groups import Measured
from luthier.training.methods.pairs import OfStep, PairMethod, PairPass, pair_passes, wins

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Dpo(PairMethod):
    """Pairs beside what the base thinks of them."""

    spec: DpoSpec
    reference: Measured = field(default_factory=Measured)
    """log ref(w|x) and log ref(l|x) by pair."""

    def prepare(self, engine: Engine, numbers: Sequence[int], limits: PassLimits, on_pass: OnPass) -> None:
        missing = self.reference.missing(numbers)
        done = 0
        with engine.adapter_off():
            for part in pair_passes(self.rows, missing, limits):
                on_pass(done / len(missing))
                chosen_P, rejected_P = part.sums(engine.logprobs(part.packed, training=False))
                for number, chosen, rejected in zip(part.numbers, chosen_P.tolist(), rejected_P.tolist(), strict=True):
                    self.reference.put(number, chosen, rejected)
                done += len(part.numbers)

    def loss(self, part: PairPass, of_step: OfStep, logp_N: Tensor) -> Tensor:
        chosen_P, rejected_P = part.sums(logp_N)
        reference_P2 = logp_N.new_tensor([self.reference[number] for number in part.numbers])
        ratio_chosen_P, ratio_rejected_P = chosen_P - reference_P2[:, 0], rejected_P - reference_P2[:, 1]
        self._tell(self.spec.beta * ratio_chosen_P, self.spec.beta * ratio_rejected_P)
        if self.spec.loss == "ipo":
            tokens_chosen_P, tokens_rejected_P = part.lengths(logp_N)
            ratio_chosen_P, ratio_rejected_P = ratio_chosen_P / tokens_chosen_P, ratio_rejected_P / tokens_rejected_P
        total = pair_losses(ratio_chosen_P - ratio_rejected_P, self.spec).sum() / of_step.pairs
        if self.spec.sft_weight:
            total = total - self.spec.sft_weight * chosen_P.sum() / of_step.chosen_tokens
        return total

    def _tell(self, chosen_P: Tensor, rejected_P: Tensor) -> None:
        self._told.add("reward_chosen", chosen_P)
        self._told.add("reward_rejected", rejected_P)
        self._told.add("margin", chosen_P - rejected_P)
        self._told.add("accuracy", wins(chosen_P - rejected_P))


def pair_losses(difference_P: Tensor, spec: DpoSpec) -> Tensor:
    """The loss of each pair, shape (P,). difference_P: log-ratio of the chosen answer less that of the rejected one, in nats
    (a token, for ipo).

    >>> import torch
    >>> round(pair_losses(torch.zeros(1), DpoSpec()).item(), 6)  # a model that has learned nothing: ln 2
    0.693147
    """
    from torch.nn.functional import logsigmoid

    if spec.loss == "ipo":
        return (difference_P - 1 / (2 * spec.beta)) ** 2
    margin_P = spec.beta * difference_P
    if spec.loss == "hinge":
        return (1 - margin_P).clamp(min=0)
    smoothing = spec.label_smoothing
    return -(1 - smoothing) * logsigmoid(margin_P) - smoothing * logsigmoid(-margin_P)
