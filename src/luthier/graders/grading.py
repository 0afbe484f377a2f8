"""Grades one answer. Nothing that a model or a row says can raise here, run away, or reach out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

from luthier.graders import formula, json_schema, patterns, texts
from luthier.graders.judging import Judge, judged
from luthier.graders.templates import MAX_CHARACTERS, Ungradable, fill, read_json
from luthier.graders.types import (
    JsonSchema,
    LabelModel,
    Multi,
    Number,
    Pattern,
    Score,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)

_EXACT = Context(prec=400, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])

_Reading = StringCheck | Number | Pattern | JsonSchema | TextSimilarity
_Simple = _Reading | LabelModel | ScoreModel


def grade(grader: _Simple | Multi, sample: str, item: Mapping[str, Any], judge: Judge | None = None) -> Score:
    """The score of the answer `sample` to the row `item`. Never raises: what goes wrong is a score of 0 with `error`.

    judge: for graders that ask a model; without one they score 0 and say so.

    >>> from luthier.graders.types import Number
    >>> grade(Number(reference="{{ item.answer }}"), "It is 12.", {"answer": "12"}).value
    1.0
    """
    if isinstance(grader, Multi):
        return _multi(grader, sample, item, judge)
    try:
        if isinstance(grader, LabelModel | ScoreModel):
            return Score(value=judged(grader, sample, item, judge))
        return Score(value=_simple(grader, sample, item))
    except Ungradable as error:
        return Score(value=0.0, error=f"{error}.")


def _multi(grader: Multi, sample: str, item: Mapping[str, Any], judge: Judge | None) -> Score:
    scores = {name: grade(part, sample, item, judge) for name, part in grader.graders.items()}
    parts = {name: score.value for name, score in scores.items()}
    errors = [f"{name}: {score.error}" for name, score in scores.items() if score.error]
    try:
        value = formula.calculate(grader.calculate_output, parts)
    except Ungradable as error:
        value, errors = 0.0, [*errors, f"{error}."]
    return Score(value=value, parts=parts, error=" ".join(errors) or None)


def _simple(grader: _Reading, sample: str, item: Mapping[str, Any]) -> float:
    if len(sample) > MAX_CHARACTERS:
        raise Ungradable(f"the answer is longer than {MAX_CHARACTERS:,} characters")
    text = fill(grader.input, sample, item)
    if isinstance(grader, JsonSchema):
        return float(json_schema.fits(grader.json_schema, read_json(text)))
    if isinstance(grader, Pattern):
        return _pattern(grader, text, None if grader.reference is None else fill(grader.reference, sample, item))
    reference = fill(grader.reference, sample, item)
    if isinstance(grader, Number):
        return _number(text, reference, grader.tolerance)
    if isinstance(grader, TextSimilarity):
        return _SIMILARITY[grader.evaluation_metric](text, reference)
    return float(_CHECKS[grader.operation](text, reference))


def _pattern(grader: Pattern, text: str, reference: str | None) -> float:
    match = patterns.found(grader.pattern, text, grader.ignore_case)
    if match is None:
        return 0.0
    if reference is None:
        return 1.0
    group = match.group(1) if match.re.groups else match.group()
    return float(group is not None and group.strip() == reference.strip())


def _number(text: str, reference: str, tolerance: float) -> float:
    expected = texts.last_number(reference)
    if expected is None:
        raise Ungradable("the reference holds no number")
    given = texts.last_number(text)
    if given is None:
        return 0.0
    apart = _EXACT.abs(_EXACT.subtract(given, expected))
    return float(given == expected or apart <= Decimal(str(tolerance)))


_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
_SIMILARITY: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": texts.ratio,
    "token_f1": texts.token_f1,
    "rouge_l": texts.rouge_l,
    "exact_match": lambda text, reference: float(text.strip() == reference.strip()),
}
