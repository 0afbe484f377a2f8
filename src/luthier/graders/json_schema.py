"""JSON Schema (2020-12) for answers of a model: every check ends, and none leaves the machine.

A schema comes from a user, so what can run away is bounded: keywords are counted as they are tried, patterns are matched
with a time limit, `$ref` stays inside the schema. What cannot be bounded is refused before the training starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

from luthier.graders.patterns import compiled, found
from luthier.graders.templates import Ungradable

MAX_CHARACTERS = 32_768
_MAX_DEPTH = 32
_MAX_STEPS = 20_000
_REFUSED = frozenset({"patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"})
_NAMED = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose keys are names that the user chose."""
_DATA = frozenset({"enum", "const", "default", "examples"})

_left: ContextVar[list[int]] = ContextVar("left")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises: ValueError for a schema that is none, or that could run away."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator

    try:
        if len(json.dumps(schema)) > MAX_CHARACTERS:
            raise ValueError(f"a schema has at most {MAX_CHARACTERS} characters")
        for keyword, value in _keywords(schema, 0):
            _check_keyword(keyword, value)
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(f"this is no JSON Schema (2020-12): see {where[:100]}") from None
    except RecursionError:
        raise ValueError("the schema is nested too deep") from None


def fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a value is as a checked schema says. Raises: Ungradable where that cannot be found out in time."""
    from referencing.exceptions import Unresolvable

    token = _left.set([_MAX_STEPS])
    try:
        return next(iter(_validator(json.dumps(schema)).iter_errors(value)), None) is None
    except Unresolvable:
        raise Ungradable("a `$ref` of the schema points nowhere") from None
    except (RecursionError, ArithmeticError):
        raise Ungradable("the answer is nested too deep, or the schema goes round in a circle") from None
    finally:
        _left.reset(token)


def _keywords(schema: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Every keyword with its value, of the schema and of those inside it."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"a schema is at most {_MAX_DEPTH} deep")
    if isinstance(schema, list):
        for part in cast("list[Any]", schema):
            yield from _keywords(part, depth + 1)
    if isinstance(schema, Mapping):
        for keyword, value in cast("Mapping[str, Any]", schema).items():
            yield keyword, value
            if keyword in _NAMED and isinstance(value, dict):
                yield from _keywords(list(cast("dict[str, Any]", value).values()), depth + 1)
            elif keyword not in _DATA:
                yield from _keywords(value, depth + 1)


def _check_keyword(keyword: str, value: Any) -> None:
    if keyword in _REFUSED:
        raise ValueError(f"`{keyword}` is not supported")
    if keyword == "$ref" and not str(value).startswith("#"):
        raise ValueError("`$ref` may only point into the schema itself: it starts with #")
    if keyword == "pattern" and isinstance(value, str):
        compiled(value)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema.validators import Draft202012Validator, extend
    from referencing import Registry

    own = {**cast("dict[str, Any]", Draft202012Validator.VALIDATORS), "pattern": _pattern, "uniqueItems": _unique}
    kind = extend(Draft202012Validator, {keyword: _counted(check) for keyword, check in own.items()})
    return kind(json.loads(schema), registry=Registry())  # an empty registry fetches nothing


def _counted(check: Callable[..., Iterable[Any] | None]) -> Callable[..., Iterable[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterable[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise Ungradable(f"checking the schema takes more than {_MAX_STEPS:,} steps")
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
