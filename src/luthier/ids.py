"""Ids: a prefix and 26 characters (UUIDv7 in lower-case Crockford base32), so that they sort by time."""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PATTERN = re.compile(r"(?P<prefix>[a-z]{2,8})_[0-7][0-9a-hjkmnp-tv-z]{25}", re.ASCII)

# One place names every prefix: a new kind of thing adds its line here.
TENANT, USER, KEY = "team", "user", "key"
DATASET, JOB, MODEL = "ds", "job", "model"
UPLOAD = "upl"
LOGIN, INVITATION = "login", "inv"
EVENT, WEBHOOK, DELIVERY, HOOK = "evt", "wh", "dlv", "hook"
AUDIT = "aud"
PRICE, CHARGE, REQUEST, SUPERVISOR = "price", "charge", "req", "sup"


def new(prefix: str, *, at_ms: int | None = None) -> str:
    """A fresh id, ordered by its millisecond.

    >>> len(new("job")) == len("job_") + 26
    True
    """
    milliseconds = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    number = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76  # version 7
    number = number & ~(0x3 << 62) | 0x2 << 62  # RFC 9562 variant
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def has_form(text: str) -> bool:
    """Whether `text` has the form of an id, of whatever kind."""
    return _PATTERN.fullmatch(text) is not None


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id of this kind; says nothing about existence.

    >>> is_id(new("job"), "job"), is_id("../x", "job"), is_id(new("ds"), "job")
    (True, False, False)
    """
    match = _PATTERN.fullmatch(text)
    return match is not None and match["prefix"] == prefix
