"""JSON as the standard has it: what Python's reader lets through in silence is refused with its place.

orjson reads; its refusals, and the few things it lets through (a key twice, integers beyond 64 bits, depth), are explained by
a second, slow reading that only such lines pay for.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from luthier.datasets.examples import MAX_DEPTH, BadRow

_MAX_DIGITS = 4300
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{%d}" % (_MAX_DIGITS + 1))
_EXACT = float(2**63)


def parse(line: int, data: bytes) -> Any:
    """The value of one record. Raises: BadRow."""
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return _explained(line, data, error)
    if b"\\u0000" in data and _holds_nul(value):
        raise BadRow(line, "nul_character", "A text holds the character NUL (\\u0000).", "Remove it: no tokenizer can show it.")
    needs_care, depth = _walk(value)
    if depth > MAX_DEPTH:
        raise _too_deep(line)
    if needs_care or _may_repeat_a_key(data, value):
        return _slow(line, data)
    return value


def _walk(value: Any) -> tuple[bool, int]:
    """Whether a number may have lost digits in reading, and how deep the value is."""
    depth, lossy = 0, False
    level: list[Any] = [value]
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below += item.values()
            elif kind is list:
                below += item
            elif kind is float and not -_EXACT < item < _EXACT:
                lossy = True
        level = [item for item in below if type(item) in _INTERESTING]
    return lossy, depth


_INTERESTING = frozenset({dict, list, float})


def _may_repeat_a_key(data: bytes, value: Any) -> bool:
    # A key that came twice was dropped in reading, so writing the value again gives fewer quotation marks.
    return data.count(b'"') != orjson.dumps(value).count(b'"')


def _holds_nul(value: Any) -> bool:
    # In `\\u0000` (an escaped backslash) there is none: only the value tells.
    return b"\\u0000" in orjson.dumps(value).replace(b"\\\\", b"")


def _slow(line: int, data: bytes) -> Any:
    """The same record by Python's reader, which sees each key and each digit. Raises: BadRow."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadRow(
                line, "duplicate_key", "A key stands twice in one object.", "Keep one of them: readers disagree which one counts."
            )
        return found

    def constant(_: str) -> NoReturn:
        raise BadRow(line, "json_syntax", "NaN and Infinity are not JSON.", "Write null, or leave the field out.")

    value: Any = json.loads(data, object_pairs_hook=once, parse_constant=constant)
    return value


def _explained(line: int, data: bytes, error: orjson.JSONDecodeError) -> Any:
    """Why orjson refused: raises BadRow, or returns the value where only orjson's limits were in the way."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as wrong:
        column = wrong.start + 1
        raise BadRow(
            line,
            "encoding",
            f"Byte {column} of the line is not UTF-8.",
            "Save the file as UTF-8 (`iconv -f latin1 -t utf-8`, if it was Latin-1).",
        ) from None
    if _depth(data) > MAX_DEPTH:
        raise _too_deep(line)
    if _DIGITS.search(data):
        raise BadRow(line, "number", f"A number has more than {_MAX_DIGITS:,} digits.", "Write it as a string, or shorten it.")
    try:
        value = _slow(line, data)
    except json.JSONDecodeError as wrong:
        raise _syntax(line, data, wrong) from None
    if any("\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False)):
        raise BadRow(
            line, "bad_unicode", "A text holds half of a surrogate pair (\\ud800 to \\udfff).", "Write the whole character."
        )
    if "\\u" not in text and error.pos >= 0:
        return value
    return value


def _depth(data: bytes) -> int:
    """How deep brackets nest, outside strings; stops counting beyond the limit."""
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif first in b"]}":
            depth -= 1
    return deepest


def _too_deep(line: int) -> BadRow:
    return BadRow(line, "too_deep", f"Objects and lists nest deeper than {MAX_DEPTH} levels.", "Flatten the row.")


def _syntax(line: int, data: bytes, error: json.JSONDecodeError) -> BadRow:
    column = error.pos + 1
    if not data.rstrip()[error.pos :].strip():
        return BadRow(line, "json_syntax", f"The JSON ends too early, at column {column}.", "Write the rest of the row.")
    if error.msg.startswith("Extra data"):
        hint = "One row a line: put a line break between rows."
    elif data[error.pos : error.pos + 1] in (b"'", b"N", b"T", b"F") or b"'role'" in data:
        hint = "This looks like Python: write it with json.dumps, not str()."
    elif error.msg.startswith("Invalid control character"):
        hint = "Escape line breaks and tabs in texts as \\n and \\t: json.dumps does."
    else:
        hint = "Check commas, quotes and brackets there."
    return BadRow(line, "json_syntax", f"Not valid JSON at column {column}: {error.msg}.", hint)
