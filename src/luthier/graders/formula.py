"""Small arithmetic over the scores of named graders: `0.8 * correct + 0.2 * min(short, 1)`. A parser of our own, no `eval`.

The parser writes the formula down in the order in which it is calculated (reverse Polish notation), so that calculating it
is one loop over a stack, however deep the formula.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from luthier.graders.templates import Ungradable

MAX_LENGTH = 1000
_MAX_DEPTH = 30
_TOKEN = re.compile(
    r"\s*(?:((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)|([A-Za-z_][A-Za-z0-9_]*)|([-+*/(),]))", re.ASCII
)
_BINARY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_Function = Callable[..., float]
FUNCTIONS: dict[str, _Function] = {
    "min": cast("_Function", min),
    "max": cast("_Function", max),
    "abs": cast("_Function", abs),
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_OF_MANY = frozenset({"min", "max"})


@dataclass(frozen=True, slots=True)
class _Call:
    """Take the last `arity` values and put the result in their place."""

    function: Callable[..., float]
    arity: int


_Step = float | str | _Call


@lru_cache(maxsize=256)
def parse(text: str) -> tuple[_Step, ...]:
    """The steps of a formula. Raises: ValueError saying where it is wrong.

    >>> parse("a + 2")[:2]
    ('a', 2.0)
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a formula has at most {MAX_LENGTH} characters")
    parser = _Parser(text)
    parser.sum()
    if parser.ahead:
        raise parser.wrong()
    return tuple(parser.steps)


def names(text: str) -> frozenset[str]:
    """The names that a formula reads. Raises: ValueError.

    >>> sorted(names("max(a, 0.5) * b"))
    ['a', 'b']
    """
    return frozenset(step for step in parse(text) if isinstance(step, str))


def calculate(text: str, values: Mapping[str, float]) -> float:
    """The value of a formula, a finite number. Raises: Ungradable (division by zero, log of 0, ...); ValueError; KeyError.

    >>> calculate("-(1 + a) * 3 / 2", {"a": 3.0})
    -6.0
    """
    stack: list[float] = []
    try:
        for step in parse(text):
            if isinstance(step, _Call):
                arguments = stack[-step.arity :]
                del stack[-step.arity :]
                stack.append(_finite(step.function(*arguments)))
            else:
                stack.append(values[step] if isinstance(step, str) else step)
    except (ArithmeticError, ValueError) as error:
        raise Ungradable(f"`calculate_output` has no value here ({error})") from None
    return stack[0]


def _finite(value: float) -> float:
    # At every step: `min(1, x)` must not turn an infinity into a good score.
    number = float(value)
    if not math.isfinite(number):
        raise OverflowError("a number becomes too large")
    return number


class _Parser:
    """Recursive descent: sum > product > signed > value, each written down after its parts."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._start = 0
        self._depth = 0
        self.steps: list[_Step] = []
        self.ahead = ""
        self._next()

    def sum(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"the formula is nested deeper than {_MAX_DEPTH}")
        self._product()
        while self.ahead in ("+", "-"):
            self._binary(self._product)
        self._depth -= 1

    def wrong(self) -> ValueError:
        return ValueError(f"the formula cannot be read at character {self._start + 1}")

    def _product(self) -> None:
        self._signed()
        while self.ahead in ("*", "/"):
            self._binary(self._signed)

    def _binary(self, operand: Callable[[], None]) -> None:
        sign = self._take()
        operand()
        self.steps.append(_Call(_BINARY[sign], 2))

    def _signed(self) -> None:
        minus = False
        while self.ahead in ("+", "-"):
            minus ^= self._take() == "-"
        self._value()
        if minus:
            self.steps.append(_Call(cast("_Function", operator.neg), 1))

    def _value(self) -> None:
        if self.ahead == "(":
            self._take()
            self.sum()
            self._expect(")")
        elif self.ahead[:1].isalpha() or self.ahead[:1] == "_":
            name = self._take()
            if self.ahead == "(":
                self._call(name)
            else:
                self.steps.append(name)
        elif self.ahead and self.ahead not in "+-*/(),":
            number = float(self.ahead)
            if not math.isfinite(number):
                raise self.wrong()
            self._take()
            self.steps.append(number)
        else:
            raise self.wrong()

    def _call(self, name: str) -> None:
        if name not in FUNCTIONS:
            raise ValueError(f"formulas know {', '.join(FUNCTIONS)}")
        self._take()
        self.sum()
        arity = 1
        while self.ahead == ",":
            self._take()
            self.sum()
            arity += 1
        self._expect(")")
        if arity > 1 and name not in _OF_MANY:
            raise ValueError(f"`{name}` takes one value")
        self.steps.append(_Call(FUNCTIONS[name] if arity > 1 or name not in _OF_MANY else float, arity))

    def _expect(self, token: str) -> None:
        if self.ahead != token:
            raise self.wrong()
        self._take()

    def _take(self) -> str:
        token = self.ahead
        self._next()
        return token

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        rest = self._text[self._at :]
        self._start = self._at + len(rest) - len(rest.lstrip())
        if found is None:
            if rest.strip():
                raise self.wrong()
            self.ahead = ""
            return
        self._at, self.ahead = found.end(), found.group().strip()
