"""Odds ratio preference optimisation: learn the chosen answer, and push its odds above those of the rejected one.

Hong et al. 2024, https://arxiv.org/abs/2403.07691; no reference. With p(y|x) the likelihood a token (geometric mean, eq. 3
and 4), odds = p / (1 - p), and beta the paper's lambda:
L = L_SFT - beta * log sigmoid(log odds(w|x) - log odds(l|x))   (eq. 6 and 7), mean over the pairs of the step.
L_SFT is the mean over the tokens of all chosen answers of the step, as in `sft.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from luthier.jobs.spec import OrpoSpec
from luthier.training.batches import PassLimits, Rows
from luthier.training.method import Batch, Engine, Method, Step, Tally
from luthier.training.methods.pairs import PairPass, pair_passes, wins

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Orpo(Method):
    """A unit is a pair."""

    rows: Rows
    spec: OrpoSpec
    _told: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.rows) // 2

    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        del engine
        self._told = Tally()
        chosen_tokens = sum(len(self.rows[2 * number].loss_at) for number in step.numbers)
        for part in pair_passes(self.rows, step.numbers, limits):
            yield Batch(part.packed, partial(self._loss, part, len(step.numbers), chosen_tokens))

    def metrics(self) -> Mapping[str, float]:
        """`accuracy` is the share of pairs whose chosen answer has the higher likelihood a token."""
        return self._told.means()

    def _loss(self, part: PairPass, pairs_of_step: int, chosen_tokens_of_step: int, logp_N: Tensor) -> Tensor:
        chosen_P, rejected_P = part.sums(logp_N)
        tokens_chosen_P, tokens_rejected_P = part.lengths(logp_N)
        log_odds_P = log_odds_ratio(chosen_P / tokens_chosen_P, rejected_P / tokens_rejected_P)
        self._told.add("log_odds_ratio", log_odds_P)
        self._told.add("accuracy", wins(log_odds_P))
        from torch.nn.functional import logsigmoid

        return -chosen_P.sum() / chosen_tokens_of_step - self.spec.beta * logsigmoid(log_odds_P).sum() / pairs_of_step


def log_odds_ratio(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """log(odds of chosen / odds of rejected), shape (P,), from log-likelihoods a token (below 0).

    >>> import torch
    >>> log_odds_ratio(torch.tensor([0.5]).log(), torch.tensor([0.25]).log()).exp().item()  # odds 1 against 1/3
    3.0
    """
    return chosen_P - rejected_P - (_log_one_less(chosen_P) - _log_one_less(rejected_P))


def _log_one_less(logp_P: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0; finite where an answer is certain."""
    import torch

    below_P = logp_P.clamp(max=-1e-6)
    return torch.log(-torch.expm1(below_P))
