"""How tokens, turns, sources and loss spread over the rows: numbers for charts, collected while the rows go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from luthier.datasets import rules
from luthier.datasets.examples import Message

if TYPE_CHECKING:
    from luthier.datasets.rendering import Rendered, Renderer

_ROWS_BY_ROLE = 1000
"""Rows whose messages are tokenised one by one, too."""
_MOST_SOURCES = 200
OTHER = "(other)"


class Distributions:
    """Collects them. What it holds grows with the variety of lengths, not with the rows."""

    def __init__(self) -> None:
        self._tokens: dict[str, Counter[int]] = {name: Counter() for name in ("row", "prompt", "completion")}
        self._roles: dict[str, Counter[int]] = {}
        self._turns: Counter[int] = Counter()
        self._loss_share: Counter[int] = Counter()
        self._sources: Counter[str] = Counter()
        self._vocabulary: set[int] = set()
        self._vocabulary_size: int | None = None
        self._by_role = 0

    def rows(self, turns: Counter[int], sources: Counter[str]) -> None:
        """Good rows: how many answers they hold, and where they say that they are from."""
        self._turns.update(turns)
        for source, rows in sources.items():
            known = source in self._sources or len(self._sources) < _MOST_SOURCES
            self._sources[source if known else OTHER] += rows

    def measured(self, renderer: Renderer, messages: Sequence[Message], rendered: Iterable[Rendered]) -> None:
        """One row in tokens: what goes through the model of it."""
        self._vocabulary_size = renderer.vocabulary_size
        for one in rendered:
            learned = sum(one.loss)
            self._tokens["row"][len(one.ids)] += 1
            self._tokens["completion"][learned] += 1
            self._tokens["prompt"][len(one.ids) - learned] += 1
            self._loss_share[round(100 * learned / max(1, len(one.ids)))] += 1
            self._vocabulary.update(one.ids)
        self._count_roles(renderer, messages)

    def measured_prompt(self, renderer: Renderer, messages: Sequence[Message], ids: Sequence[int]) -> None:
        """A prompt in tokens, whose answers are written in training."""
        self._vocabulary_size = renderer.vocabulary_size
        self._tokens["prompt"][len(ids)] += 1
        self._vocabulary.update(ids)
        self._count_roles(renderer, messages)

    def told(self) -> dict[str, Any]:
        """The fields of `types.Distributions` that this knows."""
        tokens = {**self._tokens, **self._roles}
        seen, size = len(self._vocabulary), self._vocabulary_size
        return {
            "tokens": {name: told for name, counted in tokens.items() if (told := rules.lengths(counted, "tokens"))},
            "turns": rules.lengths(self._turns, "turns"),
            "loss_share": rules.lengths(self._loss_share, "percent"),
            "sources": dict(self._sources),
            "vocabulary": None if size is None else {"size": size, "seen": seen, "share": round(seen / size, 4)},
            "rows_by_role": self._by_role,
        }

    def _count_roles(self, renderer: Renderer, messages: Sequence[Message]) -> None:
        if self._by_role == _ROWS_BY_ROLE or not messages:
            return
        self._by_role += 1
        of_role: Counter[str] = Counter()
        for message, tokens in zip(messages, renderer.lengths([message["content"] for message in messages]), strict=True):
            of_role[message["role"]] += tokens
        for role, tokens in of_role.items():
            self._roles.setdefault(role, Counter())[tokens] += 1
