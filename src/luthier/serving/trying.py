"""Graders that ask a model, tried outside of a trainer: the engine's base judges, and what it reads is metered like a chat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier.accounts.types import Actor
from luthier.bases.service import Bases
from luthier.billing.token_rules import Served
from luthier.billing.tokens import TokenMeter
from luthier.datasets.renderers import Renderers
from luthier.graders.judging import asked
from luthier.seams import InferenceEngine, ServedModel
from luthier.serving.here import folder_of


@dataclass
class TriedJudge:
    """Judges for one caller; implements `graders.judging.Judge`, and counts what it read."""

    judges: Judges
    actor: Actor
    tokens: Counter[str] = field(default_factory=Counter[str])
    """By the names that graders have for their judges."""

    def __call__(self, model: str, messages: Sequence[Mapping[str, str]], answers: Sequence[str]) -> list[float]:
        """Raises: Ungradable; as `Judges.likely`."""
        found, tokens = self.judges.likely(self.actor, model, messages, answers)
        self.tokens[model] += tokens
        return found


class Judges:
    """Bases that tell how likely they find answers, in the engine that serves."""

    def __init__(self, bases: Bases, engine: InferenceEngine, meter: TokenMeter) -> None:
        self._bases = bases
        self._engine = engine
        self._meter = meter
        self._renderers = Renderers()

    def of(self, actor: Actor) -> TriedJudge:
        """Whoever judges for this caller."""
        return TriedJudge(self, actor)

    def check(self, model: str) -> None:
        """Whether a base of this name may judge. Raises: ModelNotAllowed, BaseUnavailable."""
        self._bases.get(model)

    def likely(
        self, actor: Actor, model: str, messages: Sequence[Mapping[str, str]], answers: Sequence[str]
    ) -> tuple[list[float], int]:
        """Natural-log probability of each whole answer, its end of turn included, and the tokens that were read for it.

        Raises: Ungradable; ModelNotAllowed, BaseUnavailable, QuotaExceeded, BudgetExceeded, EngineUnavailable, ModelLoading,
        TooMany.
        """
        base = self._bases.get(model)
        folder = folder_of(self._bases, base)
        renderer = self._renderers.of(folder)
        prompt, ids = asked(renderer, messages, answers, base.context)
        tokens = sum(len(prompt) + len(answer) for answer in ids)
        account = self._meter.account(actor, "chat", base.id, base.id)
        self._meter.admit(actor, account, tokens)
        found = self._engine.score(ServedModel(base.id, folder, None), prompt, ids)
        self._meter.add(account, Served(requests=1, prompt_tokens=tokens))
        return list(found), tokens
