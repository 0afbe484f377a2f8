"""Regular expressions that a user wrote: each search ends after a tenth of a second, whatever the pattern."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from luthier.graders.templates import Ungradable

MAX_PATTERN = 1000
_TIME_LIMIT_S = 0.1


@lru_cache(maxsize=256)
def compiled(pattern: str, ignore_case: bool = False) -> Any:
    """The compiled pattern. Raises: ValueError for one that is wrong or too long."""
    import regex

    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise ValueError(f"this is no regular expression: {str(error)[:100]}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError("the pattern is nested too deep, or repeats too much") from None


def found(pattern: str, text: str, ignore_case: bool = False) -> Any:
    """The first match in `text`, or None. Raises: Ungradable when the time is over."""
    try:
        return compiled(pattern, ignore_case).search(text, timeout=_TIME_LIMIT_S)
    except (TimeoutError, MemoryError):
        raise Ungradable(f"the pattern takes longer than {_TIME_LIMIT_S} s on this answer") from None
