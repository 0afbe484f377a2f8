"""The arithmetic of `multi`: what Python would say, and a refusal for all else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.graders.formula import FUNCTIONS, MAX_LENGTH, calculate, names, parse
from luthier.graders.templates import Ungradable

VALUES = {"a": 3.0, "b": -0.5, "_c1": 0.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("1.5e2", 150.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("8 / 4 / 2", 1.0),
        ("8 - 4 - 2", 2.0),
        ("-2 * -3", 6.0),
        ("--1", 1.0),
        ("2 - - - 1", 1.0),
        ("+a", 3.0),
        ("-(a + b)", -2.5),
        ("a * b * _c1", 0.0),
        ("min(a, b, 1)", -0.5),
        ("max(a)", 3.0),
        ("abs(b)", 0.5),
        ("floor(b) + ceil(b)", -1.0),
        ("exp(_c1)", 1.0),
        ("sqrt(a + 1)", 2.0),
        ("log(exp(2))", 2.0),
        ("\n min( a ,\t1 ) ", 1.0),
    ],
)
def test_it_calculates(text, value):
    assert calculate(text, VALUES) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "1 +",
        "* 1",
        "1 2",
        "a b",
        "2a",
        "1e",
        "1e9999",
        "1e999",
        "0x10",
        "1_000",
        "(1",
        "1)",
        "min(1",
        "min(1,)",
        "min()",
        "abs(1, 2)",
        "a.b",
        "a[0]",
        "a ** 2",
        "10**10**10",
        "a // 2",
        "a % 2",
        "a if b else 1",
        "a == 1",
        "'a'",
        "lambda: 1",
        "__import__('os')",
        "eval(1)",
        "a(1)",
        "1 # two",
        "1; 2",
        "é",
        "１",
        "a\u00a0+ 1",
        "(" * 31 + "1" + ")" * 31,
        "1" * (MAX_LENGTH + 1),
    ],
)
def test_all_else_is_refused(text):
    with pytest.raises(ValueError, match=r"formula|takes one value"):
        parse(text)


def test_a_refusal_says_where():
    with pytest.raises(ValueError, match=r"at character 5$"):
        parse("a + * b")
    with pytest.raises(ValueError, match=r"at character 4$"):
        parse("a +")


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "a / (b - b)",
        "log(0)",
        "log(-1)",
        "sqrt(-1)",
        "exp(1000)",
        "1e308 * 10",
        "-1e308 * 10",
        "floor(1e308 * 10)",
        "min(1, 1e308 * 10)",  # an infinity on the way is not forgotten
        "max(1, 1e308 * 10 - 1e308 * 10)",
        "1 / (1e308 * 10)",
    ],
)
def test_without_a_finite_value_there_is_no_score(text):
    with pytest.raises(Ungradable, match="calculate_output"):
        calculate(text, VALUES)


def test_the_longest_formula_is_quick_and_needs_no_deep_stack():
    assert calculate("-" * (MAX_LENGTH - 1) + "1", {}) == -1.0
    assert calculate("+".join(["1"] * (MAX_LENGTH // 2)), {}) == MAX_LENGTH // 2
    assert calculate("(" * 29 + "1" + ")" * 29, {}) == 1.0


def test_names_are_what_it_reads():
    assert names("min(a, 2) + _c1 * a") == {"a", "_c1"}
    assert names("min + 1") == {"min"}  # no call: a name as any other, which no grader can have


_NUMBERS = st.floats(0, 100, allow_nan=False).map(lambda number: f"{number:.3f}")


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("({})".format, inner),
        st.builds("-{}".format, inner),
        st.builds("{}({})".format, st.sampled_from(["abs", "floor", "ceil", "sqrt", "log", "min", "max"]), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner),
    )


@given(st.recursive(st.one_of(_NUMBERS, st.sampled_from(["a", "b", "_c1"])), _grown, max_leaves=8))
@settings(max_examples=300, deadline=None)
def test_it_says_what_python_says(text):
    allowed = {name: _in_floats(function) for name, function in FUNCTIONS.items()}
    assert _or_none(lambda: calculate(text, VALUES)) == _or_none(lambda: eval(text, {**allowed, **VALUES}))


def _in_floats(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *values: float(function(*values) if len(values) > 1 or function not in (min, max) else values[0])


def _or_none(work: Callable[[], float]) -> float | None:
    try:
        return float(work())
    except (ArithmeticError, ValueError, Ungradable):
        return None


@given(st.text(alphabet="ab01.e+-*/(), minmaxlog_", max_size=30))
@settings(max_examples=500, deadline=None)
def test_no_text_does_more_than_be_refused(text):
    try:
        value = calculate(text, {"a": 1.0, "b": 2.0})
    except (ValueError, Ungradable, KeyError):
        return
    assert math.isfinite(value)
