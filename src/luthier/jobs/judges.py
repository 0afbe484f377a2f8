"""What graders that ask a model make it read. Pure; the trainer's own numbers are in `training/methods/judges.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from luthier.graders.types import LabelModel, judges_of
from luthier.jobs.spec import GrpoSpec, RunSpec

_CHARACTERS_PER_TOKEN = 4
_LABEL_TOKENS = 4
"""Of one label or number with its end of turn, and of what a template puts around a turn."""


@dataclass(frozen=True)
class Reading:
    """What one grader makes its judge read of one answer: the whole question once for each label or number."""

    model: str
    rows: int
    tokens: int
    """Of a row."""

    @property
    def of_an_answer(self) -> int:
        return self.rows * self.tokens


def readings(spec: GrpoSpec, question_tokens: int) -> Iterator[Reading]:
    """Of each part of the grader that asks a model, about an answer of the longest kind. question_tokens: of a row's prompt.

    >>> from luthier.graders.types import LabelModel
    >>> asked = [{"role": "user", "content": "Is this right? {{ sample.output_text }}"}]
    >>> grader = LabelModel(model="b", input=asked, labels=["yes", "no"], passing_labels=["yes"])
    >>> next(readings(GrpoSpec(grader=grader, max_new_tokens=20), 6))
    Reading(model='b', rows=2, tokens=43)
    """
    for judge in judges_of(spec.grader):
        said = sum(len(message.content) // _CHARACTERS_PER_TOKEN + _LABEL_TOKENS for message in judge.input)
        rows = len(judge.labels if isinstance(judge, LabelModel) else judge.scores)
        yield Reading(judge.model, rows, said + question_tokens + spec.max_new_tokens + _LABEL_TOKENS)


def answers_graded(spec: RunSpec, grpo: GrpoSpec, steps: int, batch_size: int) -> int:
    """Answers that a run samples to learn from."""
    rounds = -(-steps // grpo.updates_per_batch)
    return rounds * batch_size * spec.train.gradient_accumulation * grpo.group_size
