"""Moments as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?", re.ASCII | re.DOTALL)
HOW = "2026-11-01 (its beginning), 2026-11-01T12:00:00, or with a time zone behind that; without one it is UTC"


def moment_of(text: str) -> datetime:
    """A day, which stands for its beginning, or a moment; in UTC where it names no time zone. Raises: ValueError.

    >>> moment_of("2026-11-01").isoformat(), moment_of("2026-11-01T12:00:00+01:00").isoformat()
    ('2026-11-01T00:00:00+00:00', '2026-11-01T12:00:00+01:00')
    """
    if not _FORM.fullmatch(text):
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
