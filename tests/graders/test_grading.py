"""Every kind of grader: what it accepts at its making, and what an answer is worth to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.at_once import at_once

from luthier.graders import Grader, Score, grade
from luthier.graders.types import JsonSchema, Multi, Number, Pattern, StringCheck, TextSimilarity

ITEM: dict[str, Any] = {
    "answer": "Paris",
    "number": 2125,
    "price": 0.1,
    "yes": True,
    "nothing": None,
    "tags": ["a", {"b": "c"}],
    "deep": {"er": {"est": "found"}},
    "not_a_number": float("nan"),
    "text": "none here",
}
READ: TypeAdapter[Grader] = TypeAdapter(Grader)


def value(grader: Grader, sample: str, **item: Any) -> float:
    score = grade(grader, sample, {**ITEM, **item})
    assert score.error is None
    return score.value


def error(grader: Grader, sample: str, **item: Any) -> str:
    score = grade(grader, sample, {**ITEM, **item})
    assert score.value == 0.0
    assert score.error is not None
    return score.error


# -- templates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{ sample.output_text }}", '{"a": [1, {"b": "two"}]}'),
        ("{{sample.output_json.a.0}}", "1"),
        ("{{ sample.output_json.a.1.b }}!", "two!"),
        ("{{ sample.output_json.a }}", '[1, {"b": "two"}]'),
        ("{{ item.answer }}, {{ item.number }}", "Paris, 2125"),
        ("{{ item.price }} {{ item.yes }}", "0.1 true"),
        ("{{ item.tags.1.b }}{{ item.deep.er.est }}", "cfound"),
        ("{{ item.tags }}", '["a", {"b": "c"}]'),
        ("a }} b", "a }} b"),
    ],
)
def test_a_template_is_filled(template, text):
    assert value(StringCheck(input=template, reference=text), '{"a": [1, {"b": "two"}]}') == 1.0


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ item.missing }}", "there is no `item.missing`"),
        ("{{ item.answer.length }}", "there is no `item.answer.length`"),
        ("{{ item.answer.0 }}", "there is no `item.answer.0`"),  # a text is not a list of letters
        ("{{ item.tags.2 }}", "there is no `item.tags.2`"),
        ("{{ item.nothing }}", "`item.nothing` is null"),
        ("{{ item.deep.__class__ }}", "there is no `item.deep.__class__`"),
        ("{{ sample.output_json.a }}", "the answer is not JSON"),
    ],
)
def test_what_is_not_there_is_named(template, why):
    assert error(StringCheck(input=template, reference="x"), "secret") == f"{why}."


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{",
        "{{ item.a",
        "{{ item.a }",
        "{{ }}",
        "{{ item }}",
        "{{ item. }}",
        "{{ item..a }}",
        "{{ item.a b }}",
        "{{ item['a'] }}",
        "{{ item.a | upper }}",
        "{{ item.a + 1 }}",
        "{{ 1 }}",
        "{{ sample }}",
        "{{ sample.output }}",
        "{{ sample.output_text.a }}",
        "{{ samples.output_text }}",
        "{{ env.HOME }}",
        "{{ {{ item.a }} }}",
        "{{ item.é }}",
        "{{ item.1234567 }}",
        "a\x00b",
        "\ud800",
        "x" * 8193,
    ],
)
def test_a_bad_template_is_refused_wherever_it_stands(template):
    for make in (
        lambda: StringCheck(reference=template),
        lambda: Number(input=template, reference="1"),
        lambda: Pattern(pattern="a", reference=template),
        lambda: TextSimilarity(reference=template),
        lambda: JsonSchema(input=template, json_schema={}),
    ):
        with pytest.raises(ValidationError):
            make()


def test_the_fields_that_a_row_needs_are_known():
    check = StringCheck(input="{{ item.a.b }} {{ sample.output_text }}", reference="{{ item.c }}{{ item.a }}")
    pattern = Pattern(pattern="x", input="{{ item.d }}")
    assert check.item_names == {"a", "c"}
    assert pattern.item_names == {"d"}
    assert Multi(graders={"one": check, "two": pattern}, calculate_output="one").item_names == {"a", "c", "d"}


# -- the simple ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "sample", "expected"),
    [
        ("eq", "Paris", 1.0),
        ("eq", "Paris ", 0.0),
        ("ne", "Paris", 0.0),
        ("ne", "paris", 1.0),
        ("like", "It is Paris.", 1.0),
        ("like", "It is paris.", 0.0),
        ("ilike", "It is PARIS.", 1.0),
        ("ilike", "Par", 0.0),
    ],
)
def test_string_check(operation, sample, expected):
    assert value(StringCheck(operation=operation, reference="{{ item.answer }}"), sample) == expected


def test_ilike_knows_more_than_ascii():
    assert value(StringCheck(operation="ilike", reference="STRASSE"), "in der Straße") == 1.0


@pytest.mark.parametrize(
    ("sample", "tolerance", "expected"),
    [
        ("It costs $2,125.00.", 0.0, 1.0),
        ("2125, I think", 0.0, 1.0),
        ("2.125e3", 0.0, 1.0),
        ("-2125", 0.0, 0.0),
        ("2125.0000000000000000000000000001", 0.0, 0.0),
        ("2125.5", 0.5, 1.0),
        ("2124.5", 0.5, 1.0),
        ("2125.51", 0.5, 0.0),
        ("no idea", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("9" * 60_000, 1e12, 0.0),
    ],
)
def test_number(sample, tolerance, expected):
    assert value(Number(reference="{{ item.number }}", tolerance=tolerance), sample) == expected


def test_a_tolerance_of_a_tenth_is_a_tenth():
    assert value(Number(reference="0.3", tolerance=0.1), "0.2") == 1.0  # in floats they are further apart
    assert value(Number(reference="0.3", tolerance=0.1), "0.19999999999999999999") == 0.0


def test_a_reference_without_a_number_is_the_graders_fault():
    assert error(Number(reference="{{ item.text }}"), "7") == "the reference holds no number."


@pytest.mark.parametrize(
    ("pattern", "reference", "sample", "expected"),
    [
        (r"\d+", None, "a 1", 1.0),
        (r"\d+", None, "a", 0.0),
        (r"\d+", "12", "no 12 yes", 1.0),
        (r"answer: (\w+)", "{{ item.answer }}", "The answer: Paris.", 1.0),
        (r"answer: (\w+)", "{{ item.answer }}", "The answer: London.", 0.0),
        (r"(a)|(b)", "a", "b", 0.0),  # the first group took no part
        (r"<(.*?)>", "x", "< x >", 1.0),
        (r"^\p{Lu}", None, "Éa", 1.0),
    ],
)
def test_regex(pattern, reference, sample, expected):
    assert value(Pattern(pattern=pattern, reference=reference), sample) == expected


def test_regex_in_any_case():
    assert [value(Pattern(pattern="paris", ignore_case=flag), "PARIS") for flag in (False, True)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "(",
        "[",
        "a**",
        "*",
        r"\p{bogus}",
        "(?P<1>a)",
        "a{99999999999}",
        r"\L<names>",
        "(" * 400 + ")" * 400,
        "a" * 1001,
        "\x00",
    ],
)
def test_a_bad_pattern_is_refused(pattern):
    with pytest.raises(ValidationError, match="pattern"):
        Pattern(pattern=pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:(?:a?){999}){999}",
        "((((a{9}){99}){99}){99}){99}",
        "(?:(?:ab){999,}){999,}",
        "(?x)(?:(?:ab) # )\n {999}){999}",
        "(?:(?:a) {999}){999}",
        "a{99999}",
    ],
)
def test_a_pattern_that_would_fill_the_memory_is_refused_at_once(pattern):
    with at_once(), pytest.raises(ValidationError, match="repeats too much"):
        Pattern(pattern=pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}",
        r"^[a-z0-9.]{1,64}@[a-z0-9.]{1,255}\.[a-z]{2,63}$",
        r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}",
        r"^(?:[^\n]{0,200}\n){0,50}$",
        r"(?:\d{1,3}\.){3}\d{1,3}",
    ],
)
def test_patterns_that_people_write_are_taken(pattern):
    assert Pattern(pattern=pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern", ["^(a|aa)+$", "(a*)*(b?)$!", "(?R)", "(a|(?R))*", "(?<n>(?&n))", "^(([a-z])+.)+[A-Z]([a-z])+$"]
)
def test_a_pattern_that_runs_away_is_stopped(pattern):
    with at_once():
        score = grade(Pattern(pattern=pattern), "a" * 5000 + "!", {})
    assert score.value == 0.0


@pytest.mark.parametrize(
    ("metric", "sample", "expected"),
    [
        ("fuzzy_match", "Pari", 2 * 4 / 9),
        ("token_f1", "paris, France", 2 / 3),
        ("rouge_l", "the city of Paris", 2 / 5),
        ("exact_match", " Paris\n", 1.0),
        ("exact_match", "paris", 0.0),
    ],
)
def test_text_similarity(metric, sample, expected):
    assert value(TextSimilarity(reference="{{ item.answer }}", evaluation_metric=metric), sample) == pytest.approx(expected)


def test_json_schema_reads_what_its_input_says():
    grader = JsonSchema(input="{{ sample.output_json.result }}", json_schema={"type": "array"})
    assert value(grader, '{"result": [1]}') == 1.0
    assert value(grader, '{"result": {}}') == 0.0


# -- multi ----------------------------------------------------------------------------------------------------------------

RIGHT = StringCheck(operation="like", reference="{{ item.answer }}")
SHORT = Pattern(pattern=r"^.{0,20}$")
BROKEN = Number(reference="{{ item.missing }}")


def test_multi_calculates_over_its_parts():
    both = Multi(graders={"right": RIGHT, "short": SHORT}, calculate_output="0.8 * right + 0.2 * short")
    assert grade(both, "Paris", ITEM) == Score(value=1.0, parts={"right": 1.0, "short": 1.0})
    assert grade(both, "I would say that it is Paris.", ITEM).value == pytest.approx(0.8)


def test_a_part_that_cannot_grade_counts_0_and_says_why():
    score = grade(Multi(graders={"right": RIGHT, "number": BROKEN}, calculate_output="right + number"), "Paris", ITEM)
    assert score == Score(value=1.0, parts={"right": 1.0, "number": 0.0}, error="number: there is no `item.missing`.")


def test_a_formula_without_a_value_is_0_and_says_why():
    score = grade(Multi(graders={"short": SHORT}, calculate_output="1 / short"), "x" * 30, ITEM)
    assert (score.value, score.parts) == (0.0, {"short": 0.0})
    assert score.error is not None
    assert "no value here" in score.error


@pytest.mark.parametrize(
    ("graders", "formula", "why"),
    [
        ({}, "1", "at least 1 item"),
        ({f"g{i}": RIGHT for i in range(17)}, "g1", "at most 16"),
        ({"a": RIGHT}, "b", "names `b`"),
        ({"a": RIGHT}, "a +", "cannot be read"),
        ({"a": RIGHT}, "10**10**10", "cannot be read"),
        ({"a": RIGHT}, "", "at least 1 character"),
        ({"a": RIGHT}, "a" * 1001, "at most 1000"),
        ({"a": RIGHT}, "a\x0b", "control characters"),
        ({"min": RIGHT}, "min", "not the name of a function"),
        ({"1a": RIGHT}, "1", "a word of letters"),
        ({"a b": RIGHT}, "1", "a word of letters"),
        ({"é": RIGHT}, "1", "a word of letters"),
        ({"a" * 65: RIGHT}, "1", "a word of letters"),
    ],
)
def test_a_multi_that_does_not_fit_together_is_refused(graders, formula, why):
    with pytest.raises(ValidationError) as caught:
        Multi(graders=graders, calculate_output=formula)
    assert why in str(caught.value)


# -- making and hostile input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        {"type": "python", "source": "import os"},
        {"reference": "a"},
        {"type": "string_check"},
        {"type": "string_check", "reference": "a", "operation": "regex"},
        {"type": "string_check", "reference": "a", "more": 1},
        {"type": "string_check", "reference": 1},
        {"type": "string_check", "reference": "a", "name": "n" * 65},
        {"type": "string_check", "reference": "a", "name": "\x1b[31m"},
        {"type": "number", "reference": "1", "tolerance": -1},
        {"type": "number", "reference": "1", "tolerance": float("nan")},
        {"type": "number", "reference": "1", "tolerance": 1e13},
        {"type": "number", "reference": "1", "tolerance": "1"},
        {"type": "regex", "pattern": "a", "ignore_case": 1},
        {"type": "text_similarity", "reference": "a", "evaluation_metric": "bleu"},
        {"type": "json_schema", "json_schema": []},
        {"type": "json_schema", "json_schema": True},
        {"type": "multi", "graders": {"m": {"type": "multi", "graders": {}, "calculate_output": "1"}}, "calculate_output": "m"},
    ],
)
def test_what_is_no_grader_is_refused(made):
    with pytest.raises(ValidationError):
        READ.validate_python(made)


EVERY = [
    RIGHT,
    Number(reference="{{ item.number }}"),
    Pattern(pattern="(a|aa)+$", reference="{{ item.answer }}"),
    JsonSchema(json_schema={"type": "object"}),
    TextSimilarity(reference="{{ item.answer }}"),
    TextSimilarity(reference="{{ item.answer }}", evaluation_metric="rouge_l"),
    Multi(graders={"right": RIGHT, "broken": BROKEN}, calculate_output="right / broken"),
]


@pytest.mark.parametrize("grader", EVERY, ids=lambda grader: grader.type)
def test_an_answer_of_a_megabyte_is_refused_at_once(grader):
    with at_once():
        assert "longer than 65,536 characters" in (grade(grader, "a" * 2**20, ITEM).error or "")


@pytest.mark.parametrize("grader", EVERY, ids=lambda grader: grader.type)
@pytest.mark.parametrize(
    "sample", ["a b" * 21_845, "[" * 65_536, "1," * 32_768, "\U0010ffff" * 65_536], ids=["ab", "[", "1,", "max"]
)
def test_the_longest_answers_are_graded_in_time(grader, sample):
    with at_once():
        score = grade(grader, sample, {**ITEM, "answer": "b a" * 21_845})
    assert 0.0 <= score.value <= 1.0


def test_a_template_that_multiplies_its_row_is_stopped_before_it_fills_the_memory():
    grader = StringCheck(input="{{ item.big }}" * 500, reference="x")
    assert "longer than 65,536 characters" in error(grader, "x", big="b" * 10**6)
    assert "longer than 65,536 characters" in error(grader, "x", big=["b" * 1000] * 1000)


class Strange:
    """What no JSON holds."""


@given(st.text(max_size=50), st.recursive(st.one_of(st.none(), st.floats(), st.text(max_size=5), st.builds(Strange)), st.lists))
@settings(max_examples=150, deadline=None)
def test_grading_never_raises(sample, odd):
    for grader in [*EVERY, StringCheck(input="{{ item.odd }}", reference="{{ sample.output_json.a.0 }}")]:
        score = grade(grader, sample, {**ITEM, "odd": odd})
        assert score.value == score.value


def test_a_loop_in_a_row_is_no_loop_here():
    loop: list[Any] = []
    loop.append(loop)
    assert "cannot be written as text" in error(StringCheck(input="{{ item.loop }}", reference="x"), "x", loop=loop)


def test_errors_name_fields_and_never_what_stands_in_them():
    secret = "hunter2-" * 10
    for grader in (
        StringCheck(input="{{ item.secret.password }}", reference="x"),
        Number(reference="{{ item.secret }} none"),
        StringCheck(input="{{ sample.output_json.a }}", reference="x"),
    ):
        assert "hunter" not in error(grader, secret, secret="hunter two")
