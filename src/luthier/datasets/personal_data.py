"""Secrets and personal data in rows: keys, card numbers, mail addresses, phone numbers. What is found is never repeated.

Patterns are slow, so a quick look goes first: every key holds a long run of letters and digits, every number so many digits with
nothing but blanks and the like between them. Most rows have neither.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate


def _is_card(match: bytes) -> bool:
    """Whether digits pass Luhn's check, as all card numbers do.

    >>> _is_card(b"4111 1111 1111 1111"), _is_card(b"4111 1111 1111 1112"), _is_card(b"0000000000000")
    (True, False, False)
    """
    digits = [byte - 48 for byte in match if 48 <= byte <= 57]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (2 * digit - 9 if digit > 4 else 2 * digit for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_address(match: bytes) -> bool:
    return not match.lower().endswith(_MADE_UP)


_MADE_UP = (b"@example.com", b"@example.org", b"@example.net", b".example", b".invalid", b".test", b"@localhost")
"""Names that are kept free for examples. https://www.rfc-editor.org/rfc/rfc2606"""
_KEY_HINTS = (
    *(b"AKIA", b"ASIA", b"ghp_", b"gho_", b"ghs_", b"github_pat_", b"glpat-", b"sk-", b"sk_live_", b"rk_live_", b"xox"),
    *(b"AIza", b"hf_", b"npm_", b"pypi-", b"eyJ", b"-----BEGIN", b"SG.", b"lk_"),
)
_KEY = re.compile(
    rb"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|gh[pos]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}"
    rb"|glpat-[A-Za-z0-9_-]{20}|sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32}|[sr]k_live_[A-Za-z0-9]{24}|xox[abprs]-[A-Za-z0-9-]{20}"
    rb"|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{34}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50}|lk_[A-Za-z0-9_-]{32}"
    rb"|eyJ[A-Za-z0-9_-]{10,512}\.eyJ[A-Za-z0-9_-]{10,2048}\.[A-Za-z0-9_-]{20}|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"
    rb"|-----BEGIN (?:[A-Z]{1,10} )?PRIVATE KEY-----)"
)
_REST_OF_KEY = re.compile(_KEY.pattern + rb"[A-Za-z0-9_.-]*")
"""A whole key: to find one, its beginning is enough."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]{1,10} )?PRIVATE KEY-----.*?(?:-----END [A-Z ]{1,32}-----|\Z)", re.DOTALL)
_ADDRESS = re.compile(
    rb"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}(?![A-Za-z])"
)
_DOMAIN = re.compile(rb"@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}(?![A-Za-z])")
"""The end of an address: found at once, where the search for a whole one tries each letter of the text."""
_CARD = re.compile(rb"(?<![0-9.,])[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}(?![0-9.,]?[0-9])")
_PHONE = re.compile(
    rb"(?<![0-9A-Za-z.,+/-])(?:\+[1-9][0-9]{0,2}[ .-]?(?:\(?[0-9]{1,4}\)?[ .-]?){2,4}[0-9]{2,4}"
    rb"|\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[.-][0-9]{4})(?![0-9])"
)
_DIGITS = b"0123456789"
_NOT_DIGITS = bytes(byte for byte in range(256) if byte not in _DIGITS)
LEAST_DIGITS = 9
_SMALL = b"abcdefghijklmnopqrstuvwxyz"
_LETTERS = _SMALL + _SMALL.upper()
_IN_WORDS = _LETTERS + _DIGITS + b"_-"
_MARKED = _SMALL.upper() + _DIGITS
"""Some of it is in every key."""
_IN_NUMBERS = _DIGITS + b" .()+-"
CLASSES = (_IN_WORDS, _MARKED, _IN_NUMBERS, _DIGITS, _LETTERS + _DIGITS + b"._%+-", _LETTERS + _DIGITS + b"-")
"""What scanner.c looks for; the last two stand before and after the sign of a mail address."""
_NUMBERS = bytes(120 if byte in _IN_NUMBERS else 32 for byte in range(256))
_WORDS = bytes(120 if byte in _IN_WORDS else 32 for byte in range(256))
_UNMARKED = bytes(byte for byte in range(256) if byte not in _MARKED)
LEAST_KEY = 20
"""No key is shorter, from its beginning to its end or from one full stop to the next."""


def found_in(row: bytes) -> Iterator[tuple[str, str]]:
    """What a row holds, each kind once: (code, noun).

    >>> list(found_in(b"Write to jo@shop.io, or call +49 30 1234567."))
    [('personal_data', 'a mail address'), ('personal_data', 'a phone number')]
    """
    if _DOMAIN.search(row) and any(_is_address(match.group()) for match in _ADDRESS.finditer(row)):
        yield "personal_data", "a mail address"
    if (
        (any(True for _ in _long_words(row)) or b"-----BEGIN" in row)
        and any(map(row.__contains__, _KEY_HINTS))
        and _KEY.search(row)
    ):
        yield "secret", "a key or a token"
    if not any(True for _ in _long_numbers(row)):
        return
    if any(_is_card(match.group()) for match in _CARD.finditer(row)):
        yield "personal_data", "a card number"
    if any(_is_phone(match.group()) for match in _PHONE.finditer(row)):
        yield "personal_data", "a phone number"


def suspects(rows: Sequence[bytes]) -> list[int]:
    """Which rows, each of which ends with its line break, may hold what `found_in` finds; the others hold nothing of it. Far
    quicker than to search one row after another.

    >>> suspects([b"Hello\\n", b"jo@shop.io\\n"])
    [1]
    """
    whole = b"".join(rows)
    ends = list(accumulate(map(len, rows)))
    found = {bisect_right(ends, at) for at in (*_long_words(whole), *_places(whole, b"-----BEGIN"))}
    found.update(bisect_right(ends, match.start()) for match in _DOMAIN.finditer(whole))
    found.update(bisect_right(ends, at) for at in _long_numbers(whole))
    return sorted(found)


def redacted(text: str) -> str:
    """The text with a word in the place of each key, address, card or phone number, examples' own addresses included.

    >>> redacted("Write to jo@shop.io, or call +49 30 1234567.")
    'Write to [address], or call [phone].'
    """
    row = text.encode("utf-8", "replace")
    row = _REST_OF_KEY.sub(b"[key]", _PRIVATE_KEY.sub(b"[key]", row))
    row = _CARD.sub(lambda match: b"[card]" if _is_card(match.group()) else match.group(), _ADDRESS.sub(b"[address]", row))
    return _PHONE.sub(lambda match: b"[phone]" if _is_phone(match.group()) else match.group(), row).decode("utf-8", "replace")


def _places(data: bytes, part: bytes) -> Iterator[int]:
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + len(part))


def _long_words(data: bytes) -> Iterator[int]:
    """Where long words with a capital or a digit in them begin."""
    for at, end in _runs(data, _WORDS, LEAST_KEY):
        if data[at:end].translate(None, _UNMARKED):
            yield at


def _long_numbers(data: bytes) -> Iterator[int]:
    """Where enough digits stand together, with nothing but blanks and the like between them."""
    for at, end in _runs(data, _NUMBERS, LEAST_DIGITS):
        if len(data[at:end].translate(None, _NOT_DIGITS)) >= LEAST_DIGITS:
            yield at


def _runs(data: bytes, table: bytes, least: int) -> Iterator[tuple[int, int]]:
    """Where at least so many bytes stand together that the table makes an x; it makes blanks of all others."""
    shape, run = data.translate(table), b"x" * least
    at = shape.find(run)
    while at >= 0:
        end = shape.find(b" ", at)
        end = len(data) if end < 0 else end
        yield at, end
        at = shape.find(run, end)


def _is_phone(match: bytes) -> bool:
    return LEAST_DIGITS <= len(match.translate(None, _NOT_DIGITS)) <= 15
