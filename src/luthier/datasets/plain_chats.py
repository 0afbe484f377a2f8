"""Chat rows as most files have them, read quickly: `messages` with `role` and `content` and nothing else, in an order that needs
no remark. Whatever is odd about a row ends a run of them: then `schemas.Reader` reads it, and says what it is.

`scanner.py` does the same, far quicker, where it could be compiled.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from luthier.datasets.chat import ROLES, Notes, check_order
from luthier.datasets.endings import Ends
from luthier.datasets.examples import MAX_RECORD_BYTES, BadRow
from luthier.datasets.personal_data import suspects
from luthier.datasets.row_hashes import chat_hashes

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


@dataclass(frozen=True, slots=True)
class Run:
    """Such rows on lines that follow each other."""

    at: int
    """Where in the data the line lies that is no such row, or the end of the data."""
    line: int
    """The number of that line."""
    rows: bytes
    """As they are stored."""
    sizes: array[int]
    """Of each row, as all that follows."""
    lines: array[int]
    characters: array[int]
    hashes: bytes
    shapes: Counter[Shape]
    suspects: Sequence[int]
    """Which of the rows may hold what `personal_data.found_in` finds; the others do not."""
    ends: Ends


class Runs(Protocol):
    """Reads them."""

    def run(self, data: bytes, at: int, line: int) -> Run | None:
        """The run that starts at this place, which is where a line starts; None where that line is no such row."""
        ...


class PlainChats:
    """Reads them. Shapes are remembered: a file has few."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, ...], Shape | None] = {}

    def run(self, data: bytes, at: int, line: int) -> Run | None:
        """See `Runs`."""
        chats: list[PlainChat] = []
        ends, first = Ends(), line
        while at < len(data):
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            chat = self.read(data[at:end])
            if chat is None:
                break
            ends.look(line, chat.answer)
            chats.append(chat)
            at, line = min(end + 1, len(data)), line + 1
        if not chats:
            return None
        rows = [chat.canonical for chat in chats]
        lines = array("Q", range(first, line))
        return Run(
            at=at,
            line=line,
            rows=b"".join(rows),
            sizes=array("Q", map(len, rows)),
            lines=lines,
            characters=array("Q", [chat.characters for chat in chats]),
            hashes=b"".join(
                chat_hashes(chat.canonical, number, asks=chat.shape.asks) for chat, number in zip(chats, lines, strict=True)
            ),
            shapes=Counter(chat.shape for chat in chats),
            suspects=suspects(rows),
            ends=ends,
        )

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
        self._shapes[roles] = found = shape_of(roles)
        return found


def _hides(data: bytes) -> bool:
    return b"\\u00" in data and (b"\\u0022" in data or b"\\u0000" in data)


def shape_of(roles: tuple[str, ...]) -> Shape | None:
    """What these roles say; None where there is something to say of their order."""
    if not ROLES.issuperset(roles) or roles[-1:] != ("assistant",):
        return None
    notes = Notes(None)
    try:
        check_order(notes, [{"role": role} for role in roles], None)
    except BadRow:
        return None
    return None if notes.remarks else Shape(Counter(roles), roles.count("assistant"), "user" in roles)
