"""Chat rows as most files have them, read quickly: `messages` with `role` and `content` and nothing else, in an order that needs
no remark. Whatever is odd about a row makes it None here: then `schemas.Reader` reads it, and says what it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from luthier.datasets.chat import ROLES, Notes, check_order
from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow

_MOST_SHAPES = 4096
_LONGEST = 256
"""Messages of a conversation whose shape is remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What the roles of a conversation say, whatever its texts are."""

    roles: Counter[str]
    answers: int
    asks: bool
    """The user says something before the last answer."""


class PlainChat(NamedTuple):
    """A row that can be learned, and of which there is nothing to say."""

    canonical: bytes
    """As it is stored, with its line break."""
    shape: Shape
    characters: int
    answer: str


class PlainChats:
    """Reads them. Shapes are remembered: a file has few."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, ...], Shape | None] = {}

    def read(self, data: bytes) -> PlainChat | None:
        """The row of one line, or None where it wants a closer look."""
        if len(data) >= MAX_RECORD_BYTES:
            return None  # with its line break it may be too long to be stored
        try:
            row: Any = orjson.loads(data)
            messages: Any = row["messages"]
            roles = tuple([message["role"] for message in messages])
            texts: list[str] = [message["content"] for message in messages]
            shape = self._shapes[roles] if roles in self._shapes else self._shape(roles)
            characters = len("".join(texts))
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        if shape is None or len(row) != 1 or sum(map(len, messages)) != 2 * len(roles):
            return None
        for text in texts:
            if not text or text.isspace():
                return None
        canonical = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        # A key that came twice was dropped in reading: then there are fewer quotation marks. The fields in another order, and
        # escapes that stand for a quotation mark or for NUL, are for the closer look, too.
        if canonical.count(b'"') != data.count(b'"') or canonical.count(b'{"role":') != len(roles) or _hides(data):
            return None
        return PlainChat(canonical, shape, characters, texts[-1])

    def _shape(self, roles: tuple[str, ...]) -> Shape | None:
        if len(roles) > _LONGEST or len(self._shapes) >= _MOST_SHAPES:
            return None
        self._shapes[roles] = found = _shape_of(roles)
        return found


def _hides(data: bytes) -> bool:
    return b"\\u00" in data and (b"\\u0022" in data or b"\\u0000" in data)


def _shape_of(roles: tuple[str, ...]) -> Shape | None:
    if not ROLES.issuperset(roles) or roles[-1:] != ("assistant",):
        return None
    notes = Notes(None)
    try:
        check_order(notes, [{"role": role} for role in roles], None)
    except BadRow:
        return None
    return None if notes.remarks else Shape(Counter(roles), roles.count("assistant"), "user" in roles)
