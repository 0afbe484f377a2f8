"""Graders as values: what a score depends on. Their shapes follow OpenAI's graders where those have one."""

from __future__ import annotations

import builtins
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from luthier.graders import formula, json_schema, patterns
from luthier.graders.templates import item_names, template
from luthier.values import Frozen, plain_text

MAX_GRADERS = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_MOST_SCORE = 1_000_000
_STEPS = 10
"""Between the numbers of a score: tenths of its range."""
_ANSWER = "{{ sample.output_text }}"
Title = Annotated[str, Field(max_length=64), AfterValidator(plain_text)]
Template = Annotated[str, Field(min_length=1, max_length=8192), AfterValidator(plain_text), AfterValidator(template)]


class _Reading(Frozen):
    """What all simple graders have: a name to show, and the text that they look at."""

    name: Title = ""
    input: Template = Field(default=_ANSWER, description="What is graded; the whole answer by default.")

    @property
    def item_names(self) -> frozenset[str]:
        """The fields of a row that this needs."""
        reference = getattr(self, "reference", None)
        return item_names(self.input) | (item_names(reference) if isinstance(reference, str) else frozenset())


class StringCheck(_Reading):
    """1 if the texts are equal (`eq`), different (`ne`), or the input contains the reference (`like`; `ilike` in any case)."""

    type: Literal["string_check"] = "string_check"
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"
    reference: Template


class Number(_Reading):
    """1 if the last number of the input is the last number of the reference: `$2,125.00` is `2125`."""

    type: Literal["number"] = "number"
    reference: Template
    tolerance: float = Field(default=0.0, ge=0, le=1e12, description="How far apart the two may be.")


class Pattern(_Reading):
    """1 if a regular expression is found in the input; with a reference, if its first group (or all of it) is that text."""

    type: Literal["regex"] = "regex"
    pattern: Annotated[str, Field(min_length=1, max_length=patterns.MAX_PATTERN), AfterValidator(plain_text)]
    ignore_case: bool = False
    reference: Template | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        patterns.compiled(pattern)
        return pattern


class JsonSchema(_Reading):
    """1 if the input is JSON as the schema says (2020-12, `format` unchecked, `$ref` only inside the schema)."""

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any]

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        json_schema.check_schema(schema)
        return schema


class TextSimilarity(_Reading):
    """How alike input and reference are, 0 to 1."""

    type: Literal["text_similarity"] = "text_similarity"
    reference: Template
    evaluation_metric: Literal["fuzzy_match", "token_f1", "rouge_l", "exact_match"] = Field(
        default="fuzzy_match", description="By characters, by words, by words in order, or equal but for blanks around."
    )


class JudgeMessage(Frozen):
    """What a judge is told; may hold the answer and fields of the row."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Template


class _Judging(Frozen):
    """What judges have: a base, and a conversation that ends where it is to answer."""

    name: Title = ""
    model: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain_text)] = Field(
        description="The base that judges: the one that is trained, without its adapter, or another one beside it."
    )
    input: Annotated[tuple[JudgeMessage, ...], Field(min_length=1, max_length=16, strict=False)] = Field(
        description="What it is asked; the last message is the user's."
    )

    @field_validator("input")
    @classmethod
    def _asks(cls, messages: tuple[JudgeMessage, ...]) -> tuple[JudgeMessage, ...]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's: the judge answers it")
        return messages

    @property
    def item_names(self) -> frozenset[str]:
        """The fields of a row that this needs."""
        return frozenset().union(*(item_names(message.content) for message in self.input))


Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(plain_text)]


class LabelModel(_Judging):
    """1 if the label that a judge finds likeliest is one that passes."""

    type: Literal["label_model"] = "label_model"
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=32, strict=False)]
    passing_labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=32, strict=False)]

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("a label stands in `labels` twice")
        unknown = set(self.passing_labels) - set(self.labels)
        if unknown:
            raise ValueError(f"`passing_labels` names `{min(unknown)}`, which `labels` does not have")
        if set(self.passing_labels) == set(self.labels):
            raise ValueError("every label passes: then each answer is worth the same")
        return self


class ScoreModel(_Judging):
    """The number of a range that a judge gives in the mean: each of eleven counts as much as the judge finds it likely."""

    type: Literal["score_model"] = "score_model"
    range: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)

    @field_validator("range")
    @classmethod
    def _ascends(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not bounds[0] < bounds[1] or max(map(abs, bounds)) > _MOST_SCORE:
            raise ValueError(f"`range` is two numbers, the smaller first, none beyond {_MOST_SCORE:,}")
        return bounds

    @property
    def scores(self) -> tuple[float, ...]:
        """The numbers that the judge chooses from.

        >>> asked = [{"role": "user", "content": "From 0 to 10?"}]
        >>> ScoreModel(model="luthier/tiny", input=asked, range=(0, 10)).scores[:3]
        (0.0, 1.0, 2.0)
        """
        low, high = self.range
        return tuple(low + (high - low) * step / _STEPS for step in builtins.range(_STEPS + 1))


Judged = LabelModel | ScoreModel
Simple = Annotated[
    StringCheck | Number | Pattern | JsonSchema | TextSimilarity | LabelModel | ScoreModel, Field(discriminator="type")
]


class Multi(Frozen):
    """Arithmetic over the scores of several graders."""

    type: Literal["multi"] = "multi"
    name: Title = ""
    graders: Annotated[dict[str, Simple], Field(min_length=1, max_length=MAX_GRADERS)]
    calculate_output: Annotated[str, Field(min_length=1, max_length=formula.MAX_LENGTH), AfterValidator(plain_text)] = Field(
        description="E.g. `0.8 * correct + 0.2 * short`: + - * / ( ) numbers, names, min max abs floor ceil exp sqrt log."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in self.graders:
            if not _NAME.fullmatch(name) or name in formula.FUNCTIONS:
                raise ValueError("a grader's name is a word of letters, digits and _, and not the name of a function")
        unknown = formula.names(self.calculate_output) - self.graders.keys()
        if unknown:
            raise ValueError(f"`calculate_output` names `{min(unknown)}`, but `graders` has {', '.join(self.graders)}")
        return self

    @property
    def item_names(self) -> frozenset[str]:
        """The fields of a row that these need."""
        return frozenset().union(*(grader.item_names for grader in self.graders.values()))


Grader = Annotated[
    StringCheck | Number | Pattern | JsonSchema | TextSimilarity | LabelModel | ScoreModel | Multi, Field(discriminator="type")
]


def judges_of(grader: Grader) -> tuple[Judged, ...]:
    """The parts of a grader that ask a model."""
    parts = grader.graders.values() if isinstance(grader, Multi) else [grader]
    return tuple(part for part in parts if isinstance(part, LabelModel | ScoreModel))


class Score(Frozen):
    """What an answer is worth. A grader that cannot do its work gives 0 and says why."""

    value: float
    parts: dict[str, float] = Field(default_factory=dict, description="Of `multi`: the score of each grader.")
    error: str | None = None
