"""YAML as RunSpecs are written in it: the 1.2 core schema, without everything that surprises or attacks.

PyYAML's parser turns bytes into events; composing is ours, because PyYAML's composer recurses (3,000 brackets end it),
lets the last of two equal keys win, expands aliases, and reads by YAML 1.1, where `no` is false and `1:30` is 90.
A plain `012` is text here too: 1.1 reads it as 10 and 1.2 as 12, so where a number is due it is refused, not guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from yaml import events
from yaml.error import MarkedYAMLError, YAMLError
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from luthier.errors import FieldInvalid, TooLarge
from luthier.values import MAX_INT, plain_text

MAX_DEPTH = 32

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_WORDS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.title(), word.upper())
}
# NEL, LS and PS are line breaks to PyYAML and text to YAML 1.2: refused, so that nobody has to know.
_REFUSED = re.compile("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\r(?!\n)")
_QUOTED = re.compile(r"""(?P<sign>(['"])(?:<[a-z ]+>|[][{},:?-])\2)|(['"]).*?\3""")
"""What PyYAML quotes: a sign that it waited for, which is told, or a piece of the text, which may hold a secret."""


class _Events(Reader, Scanner, Parser):
    """PyYAML from bytes to events, and no further."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def __iter__(self) -> Iterator[events.Event]:
        while self.check_event():
            yield self.get_event()


@dataclass
class _Open:
    """A list or mapping whose end has not been read yet."""

    value: list[Any] | dict[str, Any]
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict[str, int])


def read_yaml(data: bytes, *, max_bytes: int = 65536) -> Any:
    """The value of one YAML document: dicts with string keys, lists, strings, numbers, booleans, None.

    Raises: TooLarge; FieldInvalid with the line and column (from 1, also in `details`) and one of these codes:
    `yaml_encoding`, `yaml_character`, `yaml_syntax`, `tags_forbidden`, `aliases_forbidden`, `duplicate_key`,
    `key_invalid`, `two_documents`, `too_deep`, `number_invalid`.

    >>> read_yaml(b"{learning_rate: 1e-4, name: no, rank: 0x10, tag: 012}")
    {'learning_rate': 0.0001, 'name': 'no', 'rank': 16, 'tag': '012'}
    """
    if len(data) > max_bytes:
        raise TooLarge(
            f"The YAML has {len(data)} bytes; {max_bytes} are allowed.",
            hint="A run's config is a page or two; data belongs in a dataset.",
        )
    text = _decoded(data)
    try:
        return _composed(iter(_Events(text)))
    except YAMLError as error:
        _refuse_syntax(error)


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        _refuse((line, column), "yaml_encoding", "this is not UTF-8 text", "Save the file as UTF-8.")
    if bad := _REFUSED.search(text):
        before = text[: bad.start()]
        where = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        _refuse(where, "yaml_character", *_CHARACTERS.get(bad[0], _CONTROL))
    return text


_CONTROL = ("a control character is not allowed", "Remove it, or write it as an escape in double quotes.")
_CHARACTERS = {
    "\t": ("a tab is not allowed", "Indent with blanks; in double quotes write \\t."),
    "\r": ("a lone carriage return is not a line end here", "Save the file with Unix (LF) line ends."),
    "\ufeff": ("a byte order mark is not allowed", "Save the file as UTF-8 without BOM."),
}


def _composed(stream: Iterator[events.Event]) -> Any:
    """One document's value. A loop and a stack, so that no depth of nesting can end the process."""
    stack: list[_Open] = []
    result: Any = None
    documents = 0
    for event in stream:
        match event:
            case events.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    _refuse(
                        _place(event), "two_documents", "a second document starts", "Keep one document a file; remove the `---`."
                    )
            case events.ScalarEvent():
                result = _put(stack, event, _scalar(event))
            case events.SequenceStartEvent() | events.MappingStartEvent():
                _push(stack, event)
            case events.SequenceEndEvent() | events.MappingEndEvent():
                result = stack.pop().value
            case events.AliasEvent():
                _refuse_alias(event)
            case _:
                pass
    return result


def _push(stack: list[_Open], event: events.CollectionStartEvent) -> None:
    _check_plain(event)
    if len(stack) == MAX_DEPTH:
        _refuse(_place(event), "too_deep", f"this is nested more than {MAX_DEPTH} deep", "A run's config needs three levels.")
    opened = _Open([] if isinstance(event, events.SequenceStartEvent) else {})
    _put(stack, event, opened.value)
    stack.append(opened)


def _put(stack: list[_Open], event: events.NodeEvent, value: Any) -> Any:
    """Lay `value` into the innermost open collection (as its next key, where one is due). Returns it."""
    if not stack:
        return value
    top = stack[-1]
    if isinstance(top.value, list):
        top.value.append(value)
    elif top.key is None:
        top.key = _key(top, event, value)
    else:
        top.value[top.key] = value
        top.key = None
    return value


def _key(top: _Open, event: events.NodeEvent, value: Any) -> str:
    place = _place(event)
    if not isinstance(value, str):
        _refuse(place, "key_invalid", "a key must be text", "Put it in quotes.")
    if value in top.lines:
        _refuse(place, "duplicate_key", f"this key stands on line {top.lines[value]} already", "Remove one of the two.")
    top.lines[value] = place[0]
    return value


def _scalar(event: events.ScalarEvent) -> Any:
    _check_plain(event)
    text = event.value
    if event.style is None:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
            return _integer(event, text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            return number if math.isfinite(number) else _refuse_number(event)
        if _NOT_FINITE.fullmatch(text):
            _refuse_number(event)
    try:
        return plain_text(text)
    except ValueError:
        _refuse(_place(event), "yaml_character", "an escape stands for a character that is not allowed", "Remove the escape.")


def _integer(event: events.ScalarEvent, text: str) -> int:
    # Twenty digits are beyond MAX_INT in any base; int() would take quadratic time on sixty thousand.
    number = int(text, 0) if len(text) <= 20 else MAX_INT + 1
    return number if abs(number) <= MAX_INT else _refuse_number(event)


def _check_plain(event: events.CollectionStartEvent | events.ScalarEvent) -> None:
    if event.tag is not None:
        _refuse(
            _place(event),
            "tags_forbidden",
            "a tag (`!...`) is not allowed",
            "Remove it; put text in quotes if it starts with `!`.",
        )
    if event.anchor is not None:
        _refuse_alias(event)


def _refuse_alias(event: events.NodeEvent) -> NoReturn:
    hint = "Write the value out where it is used; put text in quotes if it starts with `&` or `*`."
    _refuse(_place(event), "aliases_forbidden", "an anchor or alias (`&`, `*`) is not allowed", hint)


def _refuse_number(event: events.ScalarEvent) -> NoReturn:
    _refuse(
        _place(event),
        "number_invalid",
        f"a number must be finite, a whole one at most {MAX_INT}",
        "Put it in quotes if it is text.",
    )


def _refuse_syntax(error: YAMLError) -> NoReturn:
    """PyYAML's own words, less what they quote of the input."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    problem = error.problem if isinstance(error, MarkedYAMLError) else None
    where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    words = _QUOTED.sub(lambda found: found["sign"] or "something else", problem or "this cannot be read")
    _refuse(where, "yaml_syntax", words, "Check indentation, quotes and brackets there and on the line before.")


def _refuse(place: tuple[int, int], code: str, what: str, hint: str) -> NoReturn:
    line, column = place
    message = f"YAML, line {line}, column {column}: {what}."
    raise FieldInvalid(message, hint=hint, code=code, details={"line": line, "column": column}) from None


def _place(event: events.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
