"""Odds ratio preference optimisation: learn the chosen answer, and push its odds above those of the rejected one.

Hong et al. 2024, https://arxiv.org/abs/2403.07691; no reference. With p(y|x) the likelihood a token (geometric mean, eq. 3
and 4), odds = p / (1 - p), and beta the paper's lambda:
L = L_SFT - beta * log sigmoid(log odds(w|x) - log odds(l|x))   (eq. 6 and 7), mean over the pairs of the step.
L_SFT is the mean over the tokens of all chosen answers of the step, as in `sft.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.jobs.spec import OrpoSpec
from luthier.training.methods.pairs import OfStep, PairMethod, PairPass, wins

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Orpo(PairMethod):
    """Pairs alone."""

    spec: OrpoSpec

    def loss(self, part: PairPass, of_step: OfStep, logp_N: Tensor) -> Tensor:
        chosen_P, rejected_P = part.sums(logp_N)
        tokens_chosen_P, tokens_rejected_P = part.lengths(logp_N)
        log_odds_P = log_odds_ratio(chosen_P / tokens_chosen_P, rejected_P / tokens_rejected_P)
        self._told.add("log_odds_ratio", log_odds_P)
        self._told.add("accuracy", wins(log_odds_P))
        from torch.nn.functional import logsigmoid

        return -chosen_P.sum() / of_step.chosen_tokens - self.spec.beta * logsigmoid(log_odds_P).sum() / of_step.pairs


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
