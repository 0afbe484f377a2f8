"""JSON as the standard has it: what Python's reader lets through in silence is refused with its place.

orjson reads. Its refusals, and the few things it lets through (a key twice, integers beyond 64 bits, depth), are explained by
a second, slow reading that only such rows pay for.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

from luthier.datasets.examples import MAX_DEPTH, BadRow

AS_UTF8 = "Save the file as UTF-8 (`iconv -f latin1 -t utf-8`, if it was Latin-1; in Excel: CSV UTF-8)."
_MAX_DIGITS = 4300
_EXACT = float(2**63)
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def parse(line: int, data: bytes) -> Any:
    """The value of one record. Raises: BadRow."""
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_slowly(line, data)
    if b"\\u0000" in data and _holds_nul(dump(value)):
        raise _nul(line)
    depth, lossy = _walk(value)
    if depth > MAX_DEPTH:
        raise too_deep(line)
    # A key that came twice was dropped in reading, so writing the value again gives fewer quotation marks; but one that was
    # escaped as \\u0022 gives one more.
    if lossy or b"\\u0022" in data or data.count(b'"') != orjson.dumps(value).count(b'"'):
        return _read_slowly(line, data)
    return value


def checked(line: int, value: Any) -> Any:
    """A value that came from elsewhere than JSON, if JSON could hold it as a row. Raises: BadRow."""
    written = dump(value)
    if b"\\u0000" in written and _holds_nul(written):
        raise _nul(line)
    if _walk(value)[0] > MAX_DEPTH:
        raise too_deep(line)
    return value


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON, integers of any size exact."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def too_deep(line: int) -> BadRow:
    return BadRow(line, "too_deep", f"Objects and lists nest deeper than {MAX_DEPTH} levels.", "Flatten the row.")


def depth_of(value: Any) -> int:
    """How deep objects and lists nest.

    >>> depth_of({"a": [1]}), depth_of(3)
    (2, 0)
    """
    return _walk(value)[0]


def _walk(value: Any) -> tuple[int, bool]:
    """How deep the value is, and whether a number may have lost digits in reading."""
    depth, lossy = -1, False
    level: list[Any] = [[value]]  # in a list, so that a number alone is looked at, too
    while level:
        depth += 1
        below: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container if type(container) is list else ():
                kind = type(item)
                if kind is dict or kind is list:
                    below.append(item)
                elif kind is float and not -_EXACT < item < _EXACT:
                    lossy = True
        level = below
    return depth, lossy


def _holds_nul(written: bytes) -> bool:
    # `\\u0000` in a file is an escaped backslash and six letters: only the value, written again, tells.
    return b"\\u0000" in written.replace(b"\\\\", b"")


def _nul(line: int) -> BadRow:
    return BadRow(line, "nul_character", "A text holds the character NUL (\\u0000).", "Remove it: no tokenizer can show it.")


def _read_slowly(line: int, data: bytes) -> Any:
    """The value by Python's reader, which sees each key and each digit; or why there is none. Raises: BadRow."""
    text = _decoded(line, data)
    if _depth(data) > MAX_DEPTH:
        raise too_deep(line)
    try:
        value: Any = json.loads(
            text,
            object_pairs_hook=lambda pairs: _once(line, pairs),
            parse_constant=lambda name: _no_constant(line, name),
            parse_int=lambda digits: _whole(line, digits),
            parse_float=lambda digits: _finite(line, digits),
        )
    except json.JSONDecodeError as error:
        raise _syntax(line, text, error) from None
    written = json.dumps(value, ensure_ascii=False)
    try:
        written.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(
            line, "bad_unicode", "A text holds half of a surrogate pair (\\ud800 to \\udfff).", "Write the whole character."
        ) from None
    if "\\u0000" in written.replace("\\\\", ""):
        raise _nul(line)
    return value


def _decoded(line: int, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            line,
            "encoding",
            f"Byte {error.start + 1:,} of the row is not UTF-8.",
            f"{AS_UTF8} A cut file ends like this, too.",
        ) from None


def _once(line: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow(
            line, "duplicate_key", "A key stands twice in one object.", "Keep one of them: readers disagree which one counts."
        )
    return found


def _no_constant(line: int, _name: str) -> NoReturn:
    raise BadRow(line, "json_syntax", "NaN and Infinity are not JSON.", "Write null, or leave the field out.")


def _whole(line: int, digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise BadRow(line, "number", f"A number has more than {_MAX_DIGITS:,} digits.", "Write it as a string, or shorten it.")
    return int(digits)


def _finite(line: int, digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadRow(line, "number", "A number is too large for a 64-bit float.", "Write it as a string, or shorten it.")
    return number


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


def _syntax(line: int, text: str, error: json.JSONDecodeError) -> BadRow:
    place = f"column {error.colno:,}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno:,} of the record"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        end = len(text.rstrip())
        return BadRow(
            line,
            "json_syntax",
            f"The JSON is cut off: it breaks at {place}, after {end:,} characters.",
            "Write the rest of the row.",
        )
    if text.startswith("\ufeff"):
        said = "A byte order mark stands before the row: two files were joined here."
        return BadRow(line, "json_syntax", said, "Remove it (`sed 's/^\\xef\\xbb\\xbf//'`).")
    if text.lstrip()[:1] not in {"{", "["}:
        hint = 'Write one JSON object a line: {"messages": [...]}.'
    elif error.msg.startswith("Extra data") and text[error.pos :].strip() == ",":
        hint = "Remove the comma behind the row: lines of JSON have none between them."
    elif error.msg.startswith("Extra data"):
        hint = "One row a line: put a line break between rows."
    elif error.msg.startswith("Invalid control character"):
        hint = "Escape line breaks, tabs and NUL in texts: json.dumps does."
    elif text[error.pos : error.pos + 1] in {"'", "N", "T", "F"}:
        hint = "This looks like Python: write it with json.dumps, not with str()."
    else:
        hint = "Check commas, quotes and brackets there."
    return BadRow(line, "json_syntax", f"Not valid JSON at {place}: {error.msg.lower()}.", hint)
