"""JSON Schema (2020-12) for answers of a model: every check ends, and none leaves the machine.

A schema comes from a user, so what can run away is bounded: keywords are counted as they are tried, patterns are matched
with a time limit, `$ref` stays inside the schema and leads only to what was checked. What cannot be bounded is refused
before the training starts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

from luthier.graders.patterns import compiled, found
from luthier.graders.templates import Ungradable
from luthier.values import MAX_INT, plain_text

MAX_CHARACTERS = 32_768
_MAX_DEPTH = 24
"""Of lists and mappings. A run.yaml is 32 deep at most, and a schema in it begins at the sixth level."""
_MAX_NAME = 512
_MAX_STEPS = 20_000
_TIME_LIMIT_S = 1.0
"""Of one check: a thousand slow patterns, each within its own limit, are too slow together."""
_REFUSED = frozenset({"patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"})
_ONLY_AT_THE_TOP = frozenset({"$schema", "$id"})
"""Deeper they would change the rules: other keywords, another document to point into. At the top they are left out."""
_NAMED = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose keys are names that the user chose."""
_DATA = frozenset({"enum", "const", "default", "examples"})

_Schema = Mapping[str, Any]


@dataclass(slots=True)
class _Budget:
    """What is left of one check."""

    steps: int
    ends: float

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Ungradable(f"checking the schema takes more than {_MAX_STEPS:,} steps")
        if time.monotonic() > self.ends:
            raise Ungradable(f"checking the schema takes longer than {_TIME_LIMIT_S:.0f} s")


_budget: ContextVar[_Budget] = ContextVar("budget")


def check_schema(schema: _Schema) -> None:
    """Raises: ValueError for a schema that is none, that could run away, or that a run.yaml cannot hold."""
    from jsonschema import FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator

    _check_value(schema, 1)
    if len(json.dumps(schema)) > MAX_CHARACTERS:
        raise ValueError(f"a schema has at most {MAX_CHARACTERS} characters")
    try:
        Draft202012Validator.check_schema(dict(schema), FormatChecker(()))  # patterns are checked below: they are not re's
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(f"this is no JSON Schema (2020-12): see {where[:100]}") from None
    parts = list(_parts(schema))
    checked = {id(part) for part in parts}
    for part in parts:
        for keyword, value in part.items():
            _check_keyword(keyword, value, at_the_top=part is schema)
        if "$ref" in part and id(_target(schema, part["$ref"])) not in checked:
            raise ValueError("`$ref` must point to a schema with keywords inside this one, as in `#/$defs/name`")


def fits(schema: _Schema, value: Any) -> bool:
    """Whether a value is as a checked schema says. Raises: Ungradable where that cannot be found out in time."""
    token = _budget.set(_Budget(_MAX_STEPS, time.monotonic() + _TIME_LIMIT_S))
    try:
        return next(iter(_validator(json.dumps(schema)).iter_errors(value)), None) is None
    except RecursionError:
        raise Ungradable("the answer is nested too deep, or the schema goes round in a circle") from None
    except ArithmeticError:
        raise Ungradable("a number of the answer is too large for the schema") from None
    finally:
        _budget.reset(token)


def _check_value(value: Any, depth: int) -> None:
    """Raises: ValueError for what JSON does not have, or a run.yaml does not take."""
    if isinstance(value, dict | list) and depth > _MAX_DEPTH:
        raise ValueError(f"a schema is at most {_MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, part in cast("dict[Any, Any]", value).items():
            if not isinstance(name, str) or len(name) > _MAX_NAME:
                raise ValueError(f"names in a schema are texts of at most {_MAX_NAME} characters")
            plain_text(name)
            _check_value(part, depth + 1)
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            _check_value(part, depth + 1)
    elif isinstance(value, str):
        plain_text(value)
    elif value is not None and not _is_number(value):
        raise ValueError("a schema holds texts, finite numbers (whole ones up to 2^53), lists and mappings, as JSON does")


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and abs(value) <= MAX_INT) or (isinstance(value, float) and math.isfinite(value))


def _parts(schema: Any) -> Iterator[_Schema]:
    """The schema and all those inside it: wherever a keyword can stand."""
    if isinstance(schema, list):
        for part in cast("list[Any]", schema):
            yield from _parts(part)
    if isinstance(schema, dict):
        yield (keywords := cast("dict[str, Any]", schema))
        for keyword, value in keywords.items():
            if keyword in _NAMED and isinstance(value, dict):
                yield from _parts(list(cast("dict[str, Any]", value).values()))
            elif keyword not in _DATA:
                yield from _parts(value)


def _check_keyword(keyword: str, value: Any, *, at_the_top: bool) -> None:
    if keyword in _REFUSED:
        raise ValueError(f"`{keyword}` is not supported")
    if keyword in _ONLY_AT_THE_TOP and not at_the_top:
        raise ValueError(f"`{keyword}` may only stand at the top of the schema")
    if keyword == "pattern" and isinstance(value, str):
        compiled(value)


def _target(schema: _Schema, ref: Any) -> Any:
    """What a `$ref` within the schema points to, or None. https://www.rfc-editor.org/rfc/rfc6901"""
    if not isinstance(ref, str) or not f"{ref}/".startswith("#/"):
        return None
    target: Any = schema
    for step in unquote(ref).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = cast("dict[str, Any]", target).get(name)
        elif isinstance(target, list) and name.isdecimal() and int(name) < len(cast("list[Any]", target)):
            target = cast("list[Any]", target)[int(name)]
        else:
            return None
    return target


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema.validators import Draft202012Validator, extend
    from referencing import Registry

    own = {**cast("dict[str, Any]", Draft202012Validator.VALIDATORS), "pattern": _pattern, "uniqueItems": _unique}
    kind = extend(Draft202012Validator, {keyword: _counted(check) for keyword, check in own.items()})
    keywords = {keyword: value for keyword, value in json.loads(schema).items() if keyword not in _ONLY_AT_THE_TOP}
    return kind(keywords, registry=Registry())  # an empty registry fetches nothing


def _counted(check: Callable[..., Iterable[Any] | None]) -> Callable[..., Iterable[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterable[Any]:
        _budget.get().spend()
        return check(validator, value, instance, schema) or ()

    return counted


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and found(pattern, instance) is None:
        yield ValidationError("the pattern is not there")


def _unique(_validator: Any, unique: bool, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if unique and isinstance(instance, list):
        written = [_canonical(element) for element in cast("list[Any]", instance)]
        if len(set(written)) < len(written):
            yield ValidationError("an element is there twice")


def _canonical(value: Any) -> str:
    """Equal texts for equal values: 1.0 is 1, and the order of names says nothing."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, cast('list[Any]', value)))}]"
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return f"{{{','.join(f'{json.dumps(name)}:{_canonical(fields[name])}' for name in sorted(fields))}}}"
    return json.dumps(value)
