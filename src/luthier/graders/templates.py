"""Templates of graders: `{{ sample.output_text }}` and `{{ item.reference }}`, looked up and never evaluated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

MAX_CHARACTERS = 65_536
_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6}", re.ASCII)
_KNOWN = "`sample.output_text`, `sample.output_json.<name>` and `item.<name>`"

Path = tuple[str, ...]


class Ungradable(Exception):
    """Why an answer cannot be graded. Names fields, never what stands in them."""


@lru_cache(maxsize=1024)
def pieces(template: str) -> tuple[str | Path, ...]:
    """Texts and paths of a template in order. Raises: ValueError for a name that no row can have.

    >>> pieces("= {{ item.answer }}")
    ('= ', ('item', 'answer'))
    """
    found: list[str | Path] = []
    before, *rest = template.split("{{")
    if before:
        found.append(before)
    for part in rest:
        inside, closed, after = part.partition("}}")
        if not closed:
            raise ValueError("a `{{` has no `}}`")
        found.append(_path(inside.strip()))
        if after:
            found.append(after)
    return tuple(found)


def template(text: str) -> str:
    """`text`, if it is a template. Raises: ValueError."""
    pieces(text)
    return text


def item_names(text: str) -> frozenset[str]:
    """The fields of a row that a template needs.

    >>> sorted(item_names("{{ item.a.b }} {{ sample.output_text }} {{ item.c }}"))
    ['a', 'c']
    """
    return frozenset(piece[1] for piece in pieces(text) if isinstance(piece, tuple) and piece[0] == "item")


def fill(text: str, sample: str, item: Mapping[str, Any]) -> str:
    """The template with the answer `sample` and the row `item` put in. Raises: Ungradable."""
    parts: list[str] = []
    left = MAX_CHARACTERS
    for piece in pieces(text):
        parts.append(piece if isinstance(piece, str) else _text(_find(piece, sample, item), piece))
        left -= len(parts[-1])
        if left < 0:  # at once: four hundred places for a row of a megabyte would fill the memory
            raise Ungradable(f"a filled template is longer than {MAX_CHARACTERS:,} characters")
    return "".join(parts)


def read_json(text: str) -> Any:
    """The JSON value that a text is; no NaN and no infinity. Raises: Ungradable."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):  # also numbers of thousands of digits, and brackets without end
        raise Ungradable("the answer is not JSON") from None


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError("JSON has no such number")
    return number


def _path(inside: str) -> Path:
    steps = tuple(inside.split("."))
    known = all(_STEP.fullmatch(step) for step in steps) and (
        steps == ("sample", "output_text") or steps[:2] == ("sample", "output_json") or (steps[0] == "item" and len(steps) > 1)
    )
    if not known:
        raise ValueError(f"templates know {_KNOWN}, and nothing else")
    return steps


def _find(path: Path, sample: str, item: Mapping[str, Any]) -> Any:
    if path[0] == "item":
        value, steps = cast("Any", item), path[1:]
    elif path[1] == "output_text":
        return sample
    else:
        value, steps = read_json(sample), path[2:]
    for step in steps:
        value = _step(value, step, path)
    return value


def _step(value: Any, step: str, path: Path) -> Any:
    if isinstance(value, Mapping) and step in value:
        return cast("Mapping[str, Any]", value)[step]
    if isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal() and int(step) < len(cast("Any", value)):
        return cast("Sequence[Any]", value)[int(step)]
    raise Ungradable(f"there is no `{'.'.join(path)}`")


def _text(value: Any, path: Path) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise Ungradable(f"`{'.'.join(path)}` is null")
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        raise Ungradable(f"`{'.'.join(path)}` cannot be written as text") from None
