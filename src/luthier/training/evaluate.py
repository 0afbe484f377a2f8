"""What a model is worth: loss and perplexity on held-out rows, right answers, and some of them side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from luthier.datasets.formats import Example, Pair, Prompt, Rated
from luthier.datasets.packing import PassLimits
from luthier.graders.texts import token_f1
from luthier.jobs.spec import EvaluateSpec
from luthier.modeling.types import Sampling
from luthier.training.method import Engine, Method

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer

_ROWS_A_ROUND = 32
_SPARE_TOKENS = 32


@dataclass(frozen=True)
class Question:
    """A held-out row, asked."""

    prompt_ids: Sequence[int]
    prompt: str
    expected: str
    expected_tokens: int


@dataclass(frozen=True)
class Answer:
    """What a model said, and whether it ended by itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Room:
    """Tokens that the base can hold, and those of an answer that nobody has written yet."""

    context: int
    free_answer: int


@dataclass(frozen=True)
class HeldOut:
    """The validation rows in both forms: for the loss, and as questions."""

    method: Method
    questions: Sequence[Question]
    limits: PassLimits


def questions_of(rows: Iterable[Example | Pair | Rated | Prompt], renderer: Renderer, most: int, room: Room) -> list[Question]:
    """The first rows as questions, each with the answer that was wanted; those that leave no room for it are skipped."""
    found = (_question(row, renderer, room) for row in islice(rows, most))
    return [question for question in found if len(question.prompt_ids) + question.expected_tokens <= room.context]


def _question(row: Example | Pair | Rated | Prompt, renderer: Renderer, room: Room) -> Question:
    if isinstance(row, Prompt):
        return Question(renderer.prompt_of(row), row.text or _last_asked(row.messages), "", room.free_answer)
    example = row.chosen if isinstance(row, Pair) else row.example if isinstance(row, Rated) else row
    prompt_ids, expected = renderer.target(example)
    answer_tokens = len(renderer.render(example).ids) - len(prompt_ids)
    return Question(prompt_ids, example.prompt or _last_asked(example.messages), expected, max(1, answer_tokens))


@dataclass(frozen=True)
class Sides:
    """Who is compared: a tuned model with its bare base, and maybe another model on that base."""

    tuned: Engine
    against: Engine | None = None

    def __iter__(self) -> Iterator[tuple[str, Engine, AbstractContextManager[None]]]:
        yield "base", self.tuned, self.tuned.adapter_off()
        yield "tuned", self.tuned, nullcontext()
        if self.against is not None:
            yield "against", self.against, nullcontext()


def compare(
    sides: Sides, renderer: Renderer, held_out: HeldOut, spec: EvaluateSpec, on_progress: Callable[[float], None]
) -> dict[str, Any]:
    """All sides on the same rows: `results/evaluation.json`."""
    scores: dict[str, Any] = {}
    answers: dict[str, list[str]] = {}
    count = 3 if sides.against is not None else 2
    for place, (name, engine, context) in enumerate(sides):
        with context:
            told = partial(_share, on_progress, place, count)
            scores[name], answers[name] = _measure(engine, renderer, held_out, spec, told)
    samples = [
        {"prompt": question.prompt, "expected": question.expected, **{name: given[place] for name, given in answers.items()}}
        for place, question in enumerate(held_out.questions[: spec.samples])
    ]
    return {"rows": len(held_out.method), "answered": len(held_out.questions), **scores, "samples": samples}


def _share(on_progress: Callable[[float], None], place: int, count: int, done: float) -> None:
    on_progress((place + done) / count)


def summary(evaluation: Mapping[str, Any]) -> str:
    """The numbers in a sentence, for people."""
    names = [name for name in ("base", "tuned", "against") if name in evaluation]
    losses = ", ".join(f"{name} {evaluation[name]['loss']:.4f}" for name in names)
    if evaluation["tuned"]["exact_match"] is None:
        return f"Validation loss: {losses}."
    exact = ", ".join(f"{name} {evaluation[name]['exact_match']:.1%}" for name in names)
    return f"Validation loss: {losses}. Exact answers: {exact}."


def _measure(
    engine: Engine, renderer: Renderer, held_out: HeldOut, spec: EvaluateSpec, on_progress: Callable[[float], None]
) -> tuple[dict[str, Any], list[str]]:
    loss = held_out.method.validation_loss(engine, held_out.limits, lambda done: on_progress(0.2 * done))
    found: dict[str, Any] = {"loss": loss, "perplexity": None, "exact_match": None, "metrics": held_out.method.metrics()}
    answers: list[Answer] = []
    for answer in _answers(engine, renderer, held_out.questions, spec.max_new_tokens):
        answers.append(answer)
        on_progress(0.2 + 0.8 * len(answers) / len(held_out.questions))
    found["stops"] = mean([float(answer.stopped) for answer in answers])
    if held_out.method.one_right_answer:
        found |= {"perplexity": perplexity(loss), **right_answers(answers, held_out.questions)}
    return found, [answer.text for answer in answers]


def right_answers(answers: Sequence[Answer], questions: Sequence[Question]) -> dict[str, float | None]:
    """How often, and how far, the answers are those that were wanted. None of what cannot be said of them.

    >>> question = Question([], "", '{"a": 1}', 4)
    >>> right_answers([Answer('{"a": 2}', stopped=True)], [question])
    {'exact_match': 0.0, 'f1': 0.5, 'json_valid': 1.0}
    """
    pairs = [(answer.text, question.expected) for answer, question in zip(answers, questions, strict=True)]
    return {
        "exact_match": mean([float(same_answer(*pair)) for pair in pairs]),
        "f1": mean([token_f1(*pair) for pair in pairs]),
        "json_valid": mean([float(_holds_json(answer)) for answer, expected in pairs if _holds_json(expected)]),
    }


def mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return sum(values) / len(values) if values else None


def _holds_json(text: str) -> bool:
    """Whether it is an object or a list. A number or a word is JSON, too, and says nothing."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False


def _answers(engine: Engine, renderer: Renderer, questions: Sequence[Question], max_new_tokens: int) -> Iterable[Answer]:
    """Greedy answers in order. One that is longer than the longest right one of its round is wrong already: it is cut there."""
    for start in range(0, len(questions), _ROWS_A_ROUND):
        group = questions[start : start + _ROWS_A_ROUND]
        enough = max(question.expected_tokens for question in group) + _SPARE_TOKENS
        sampling = Sampling(max_new_tokens=min(max_new_tokens, enough), stop_ids=renderer.stop_ids)
        for completion in engine.generate([question.prompt_ids for question in group], sampling):
            yield Answer(renderer.decode(completion.token_ids), stopped=completion.finish_reason == "stop")


def perplexity(loss: float) -> float:
    """exp(loss), as a number that JSON can carry.

    >>> perplexity(0.0)
    1.0
    """
    return math.exp(min(loss, 700.0))


def same_answer(answer: str, expected: str) -> bool:
    """Equal but for blanks around it; where JSON is expected, equal as values.

    >>> same_answer(' {"a":1, "b":2}', '{"b": 2, "a": 1}'), same_answer("Paris.", "Paris")
    (True, False)
    """
    answer, expected = answer.strip(), expected.strip()
    if answer == expected:
        return True
    try:
        wanted = json.loads(expected)
        return isinstance(wanted, (dict, list)) and json.loads(answer) == wanted
    except (ValueError, RecursionError):
        return False


def _last_asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """What a person would call the question."""
    asked = [message.get("content") for message in messages if message.get("role") == "user"]
    return str(asked[-1]) if asked else ""
