"""Schemas that a user wrote: what is refused before the training, and that every check ends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.graders import grade
from luthier.graders.json_schema import fits
from luthier.graders.types import JsonSchema

RUNAWAY = "^(a|aa)+$"
BAIT = "a" * 40 + "!"
PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/person.json",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": r"^\p{L}"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        "friends": {"type": "array", "items": {"$ref": "#"}},
        "$ref": {"type": "string"},  # a field may be called as a keyword is
    },
    "required": ["name"],
    "additionalProperties": False,
}


def graded(schema: dict[str, Any], answer: Any) -> tuple[float, str | None]:
    return graded_text(schema, json.dumps(answer))


def graded_text(schema: dict[str, Any], answer: str) -> tuple[float, str | None]:
    score = grade(JsonSchema(json_schema=schema), answer, {})
    return score.value, score.error


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"name": "Ada"}, 1.0),
        ({"name": "Ada", "age": 36.0, "tags": ["a", "b"]}, 1.0),
        ({"name": "Ada", "friends": [{"name": "Éva", "friends": []}]}, 1.0),
        ({"name": "Ada", "$ref": "me"}, 1.0),
        ({}, 0.0),
        ({"name": ""}, 0.0),
        ({"name": "1"}, 0.0),
        ({"name": "Ada", "age": -1}, 0.0),
        ({"name": "Ada", "age": True}, 0.0),
        ({"name": "Ada", "tags": ["a", "a"]}, 0.0),
        ({"name": "Ada", "tags": ["c"]}, 0.0),
        ({"name": "Ada", "friends": [{"name": "Eve", "friends": [{}]}]}, 0.0),
        ({"name": "Ada", "more": 1}, 0.0),
        ([], 0.0),
    ],
)
def test_an_answer_fits_or_it_does_not(answer, value):
    assert graded(PERSON, answer) == (value, None)


@pytest.mark.parametrize(
    "answer",
    ["", "{", "{'a': 1}", "NaN", "[Infinity]", "-Infinity", "1e999", "1" * 5000, "[" * 30_000, "{}{}", "```json\n{}\n```"],
)
def test_what_is_not_json_has_no_score(answer):
    assert graded_text({}, answer) == (0.0, "the answer is not JSON.")


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "text"}, "no JSON Schema"),
        ({"required": "name"}, "no JSON Schema"),
        ({"properties": {"a": {"minimum": "1"}}}, "see properties/a/minimum"),
        ({"items": [{"type": "string"}]}, "no JSON Schema"),  # as draft 7 had it
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "inside this one"),
        ({"$ref": "file:///etc/passwd"}, "inside this one"),
        ({"$ref": "other.json#/$defs/a"}, "inside this one"),
        ({"properties": {"a": {"items": {"$ref": "//host/x"}}}}, "inside this one"),
        ({"$ref": "#/$defs/missing", "$defs": {}}, "inside this one"),
        ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, "inside this one"),
        ({"$ref": "#/examples/0", "examples": [{"pattern": RUNAWAY}]}, "inside this one"),
        ({"$ref": "#/const", "const": {"patternProperties": {RUNAWAY: False}}}, "inside this one"),
        ({"$ref": "#/$defs", "$defs": {"type": {}}}, "inside this one"),
        ({"allOf": [{"$ref": "#/allOf/-1"}]}, "inside this one"),
        ({"patternProperties": {RUNAWAY: {}}}, "not supported"),
        ({"not": {"unevaluatedProperties": False}}, "not supported"),
        ({"anyOf": [{"$dynamicRef": "#a"}]}, "not supported"),
        ({"allOf": [{"$schema": "http://json-schema.org/draft-07/schema#", "pattern": RUNAWAY}]}, "only stand at the top"),
        ({"$defs": {"a": {"$id": "http://127.0.0.1/a"}}}, "only stand at the top"),
        ({"pattern": "("}, "no regular expression"),
        ({"items": {"pattern": "(?:(?:a{999}){999}){999}"}}, "repeats too much"),
        ({"const": float("nan")}, "as JSON does"),
        ({"enum": [float("inf")]}, "as JSON does"),
        ({"maximum": 2**53 + 1}, "as JSON does"),
        ({"enum": [{1, 2}]}, "as JSON does"),
        ({"enum": [("a",)]}, "as JSON does"),
        ({"const": {1: 2}}, "names in a schema"),
        ({"properties": {"a" * 513: {}}}, "names in a schema"),
        ({"const": "\ud800"}, "Unicode"),
        ({"const": "\x00"}, "control characters"),
        ({"enum": ["a" * 32_768]}, "at most 32768 characters"),
    ],
)
def test_a_schema_is_refused_before_the_training(schema, part):
    with pytest.raises(ValidationError, match="json_schema") as caught:
        JsonSchema(json_schema=schema)
    assert part in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("wrapped", "levels"), [(lambda inside: {"not": inside}, 23), (lambda inside: {"allOf": [inside]}, 11)], ids=["not", "allOf"]
)
def test_depth_is_what_a_run_yaml_can_hold(wrapped, levels):
    def nested(count: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(count):
            schema = wrapped(schema)
        return schema

    JsonSchema(json_schema=nested(levels))
    for too_many in (levels + 1, 5000):
        with pytest.raises(ValidationError, match="at most 24 deep"):
            JsonSchema(json_schema=nested(too_many))


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": RUNAWAY},
        {"properties": {"a": {"$ref": "#"}}, "pattern": RUNAWAY},
        {**PERSON, "properties": {"name": {"pattern": RUNAWAY}, "friends": {"items": {"$ref": "#"}}}},
        {"propertyNames": {"pattern": RUNAWAY}},
        {"additionalProperties": {"pattern": RUNAWAY}},
    ],
)
@pytest.mark.parametrize("answer", [BAIT, {"a": BAIT}, {BAIT: 1}, {"name": "a", "friends": [{"name": BAIT}]}])
def test_a_pattern_that_runs_away_is_stopped_wherever_it_stands(schema, answer):
    began = time.perf_counter()
    value, error = graded(schema, answer)
    assert time.perf_counter() - began < 5
    assert error is None or (value == 0.0 and "takes longer" in error)


def test_that_bait_is_taken():
    assert graded({"pattern": RUNAWAY}, BAIT) == (0.0, "the pattern takes longer than 0.1 s on this answer.")
    assert graded({"$defs": {"a": {"pattern": RUNAWAY}}, "$ref": "#/$defs/a"}, BAIT)[1] is not None


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"allOf": [{"uniqueItems": True}] * 1300}, list(range(10_000))),
        ({"items": {"enum": list(range(5000))}}, [4999] * 10_000),
        ({"items": {"pattern": "^((a|a)*c|a*b)$"}}, ["a" * 13 + "b"] * 3500),
        ({"items": {"allOf": [{"type": "integer"}] * 1000}}, [1] * 20_000),
        ({"$defs": {"a": {"enum": [list(range(300))] * 20}}, "items": {"$ref": "#/$defs/a"}}, [list(range(299))] * 40),
    ],
    ids=["unique", "enum", "patterns", "steps", "lists"],
)
def test_many_small_checks_end_too(schema, answer):
    began = time.perf_counter()
    value, error = graded(schema, answer)
    assert time.perf_counter() - began < 8
    assert value == 0.0
    assert error is None or "checking the schema takes" in error


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$ref": "#"}, "1"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "1"),
        ({"items": {"$ref": "#"}}, "[" * 900 + "]" * 900),
        ({"const": 1, "uniqueItems": True}, "[" * 900 + "]" * 900),
    ],
)
def test_circles_and_depth_end_in_a_score(schema, text):
    value, error = graded_text(schema, text)
    assert value == 0.0
    assert error is None or "nested too deep" in error


def test_numbers_beyond_all_measure_end_in_a_score():
    too_large = (0.0, "a number of the answer is too large for the schema.")
    assert graded_text({"multipleOf": 0.1}, "1" * 4000) == too_large
    assert graded_text({"multipleOf": 3}, "3" * 4000) == (1.0, None)
    assert graded_text({"multipleOf": 0.5}, "1e308") == (1.0, None)


def test_equal_elements_are_found_as_json_means_them():
    unique = {"uniqueItems": True}
    assert graded_text(unique, "[1, 1.0]")[0] == 0.0
    assert graded_text(unique, '[{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]')[0] == 0.0
    assert graded_text(unique, '[1, true, "1", "true", 0, false, null, [], {}]')[0] == 1.0
    assert graded_text({"uniqueItems": False}, "[1, 1]")[0] == 1.0


def test_pointers_may_be_escaped():
    schema = {"$defs": {"a/b~c d": {"type": "integer"}}, "$ref": "#/$defs/a~1b~0c%20d"}
    assert [graded(schema, answer)[0] for answer in (1, "1")] == [1.0, 0.0]


def test_format_says_nothing():
    assert graded({"format": "email"}, "nobody") == (1.0, None)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "a", "ab"]), st.sampled_from([0.5, 1.0])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.one_of(
        st.builds(lambda kind: {"type": kind}, st.sampled_from(["string", "integer", "object", "array", "null"])),
        st.builds(lambda value: {"const": value}, VALUES),
        st.builds(lambda pattern: {"pattern": pattern}, st.sampled_from(["^a", "b$", "."])),
        st.just({"uniqueItems": True}),
    ),
    lambda inner: st.one_of(
        st.builds(lambda part: {"items": part}, inner),
        st.builds(lambda part: {"not": part}, inner),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"properties": {"a": part}, "required": ["a"]}, inner),
        st.builds(lambda part: {"$defs": {"x": part}, "additionalProperties": part}, inner),
    ),
    max_leaves=5,
)


@given(SCHEMAS, VALUES)
@settings(max_examples=200, deadline=None)
def test_it_decides_as_jsonschema_does(schema, value):
    from jsonschema import Draft202012Validator

    JsonSchema(json_schema=schema)
    assert fits(schema, value) == Draft202012Validator(schema).is_valid(value)
