"""Graders that ask a model: how likely it finds each of a few answers is their score. Who has a model passes it as `Judge`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from luthier.errors import Invalid
from luthier.graders.templates import Ungradable, fill
from luthier.graders.types import Judged, LabelModel

Judge = Callable[[str, Sequence[Mapping[str, str]], Sequence[str]], Sequence[float]]
"""Given the model that a grader names, a conversation and some whole answers: how likely each is, in nats. Raises: Ungradable."""


class Words(Protocol):
    """What a judge needs of a renderer."""

    @property
    def end_id(self) -> int: ...
    def prompt(self, messages: Sequence[Mapping[str, str]], /) -> list[int]: ...
    def plain(self, text: str, /) -> list[int]: ...


def asked(
    words: Words, messages: Sequence[Mapping[str, str]], answers: Sequence[str], context: int
) -> tuple[list[int], list[list[int]]]:
    """What a judge reads, as tokens: the conversation, and each answer with its end of turn. Raises: Ungradable."""
    try:
        prompt = words.prompt(messages)
    except Invalid:
        raise Ungradable("the judge cannot be asked so: its messages are no conversation") from None
    ids = [[*words.plain(answer), words.end_id] for answer in answers]
    if len(prompt) + max(map(len, ids)) > context:
        raise Ungradable(f"what the judge is asked is longer than its context of {context} tokens")
    return prompt, ids


def judged(grader: Judged, sample: str, item: Mapping[str, Any], judge: Judge | None) -> float:
    """What a judge thinks of an answer. Raises: Ungradable, also where there is no judge."""
    if judge is None:
        raise Ungradable("a model has to judge this, and none is here")
    messages = [{"role": _ROLES.get(each.role, each.role), "content": fill(each.content, sample, item)} for each in grader.input]
    if isinstance(grader, LabelModel):
        likely = judge(grader.model, messages, grader.labels)
        return float(grader.labels[likely.index(max(likely))] in grader.passing_labels)
    likely = judge(grader.model, messages, [f"{score:g}" for score in grader.scores])
    return expected(grader.scores, likely)


def expected(scores: Sequence[float], logps: Sequence[float]) -> float:
    """The mean of scores, each as much as it is likely among them.

    >>> expected([0.0, 1.0], [math.log(0.1), math.log(0.3)])
    0.75
    """
    most = max(logps)
    weights = [math.exp(logp - most) for logp in logps]
    return round(sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights), 9)


_ROLES = {"developer": "system"}
