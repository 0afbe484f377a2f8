"""Regular expressions that a user wrote: each search ends after a tenth of a second, whatever the pattern."""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod
from typing import Any

from luthier.graders.templates import Ungradable

MAX_PATTERN = 1000
_MAX_WEIGHT = 100_000
_TIME_LIMIT_S = 0.1
_COUNT = re.compile(r"(\)\s*)?\{\s*([0-9]+)", re.ASCII)
_VERBOSE = re.compile(r"\(\?[A-Za-z0-9-]*x", re.ASCII)


@lru_cache(maxsize=256)
def compiled(pattern: str, ignore_case: bool = False) -> Any:
    """The compiled pattern. Raises: ValueError for one that is wrong or too long."""
    import regex

    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    if _weight(pattern) > _MAX_WEIGHT:
        raise ValueError("the pattern repeats too much: its repeats inside repeats multiply")
    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise ValueError(f"this is no regular expression: {str(error)[:100]}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError("the pattern is nested too deep, or repeats too much") from None


def _weight(pattern: str) -> int:
    """How large it gets at most: compiling writes `(...){9}` out nine times, and nothing limits its time or memory."""
    counts = [(bool(after), max(1, int(number))) for after, number in _COUNT.findall(pattern)]
    # Only a group can hold a repeat that is repeated; in verbose patterns a comment may hide where a group ends.
    everywhere = _VERBOSE.search(pattern) is not None
    nested = prod(number for after_group, number in counts if after_group or everywhere)
    return len(pattern) * nested * max((number for after_group, number in counts if not after_group), default=1)


def found(pattern: str, text: str, ignore_case: bool = False) -> Any:
    """The first match in `text`, or None. Raises: Ungradable when the time is over."""
    try:
        return compiled(pattern, ignore_case).search(text, timeout=_TIME_LIMIT_S)
    except (TimeoutError, MemoryError):
        raise Ungradable(f"the pattern takes longer than {_TIME_LIMIT_S} s on this answer") from None
