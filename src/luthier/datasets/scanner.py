"""Plain chats read by scanner.c: what `plain_chats.PlainChats` says of them, about ten times as fast."""

from __future__ import annotations

import ctypes
import sys
import threading
from array import array
from collections import Counter
from pathlib import Path

import orjson

from luthier import compiled
from luthier.datasets import endings, personal_data
from luthier.datasets.endings import Ends
from luthier.datasets.examples import MAX_RECORD_BYTES
from luthier.datasets.plain_chats import Run, Shape, shape_of
from luthier.datasets.row_hashes import WIDTH

# Tuned for no processor in particular: for some, gcc keeps the words of a hash in vector registers, and takes four times as long.
SOURCE = compiled.Source("luthier.datasets", "scanner", ("-O3", "-march=native", "-mtune=generic", "-fno-tree-slp-vectorize"))
_SUSPECT, _OPEN, _LONG = 1, 4, 2
_PAD = 32
"""Bytes that are written at once."""
_ROLES = ("system", "user", "assistant", "tool")
"""As scanner.c numbers them."""
_MOST_SHAPES = 64
"""A row of yet another shape is read otherwise: shapes are searched one by one."""
_SHORTEST = len(b'{"messages":[{"role":"assistant","content":"."}]}\n')


def _kinds() -> bytes:
    """What each byte is."""
    bits = (*personal_data.CLASSES, endings.ASCII_ENDS)
    return bytes(sum(1 << bit for bit, members in enumerate(bits) if byte in members) for byte in range(256))


class _Scan(ctypes.Structure):
    """`Scan` of scanner.c."""

    _fields_ = (
        ("data", ctypes.c_char_p),
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("rows", "hashes", "lines", "sizes", "characters", "shapes", "flags")),
        ("room", ctypes.c_int64),
        ("known", ctypes.c_void_p),
        ("known_count", ctypes.c_int64),
        ("kinds", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("long_answer", "longest_line", "least_word", "least_digits", "at")),
        ("line", ctypes.c_uint64),
        ("count", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("strange", ctypes.c_uint64),
    )


class _Room:
    """Memory for what is said of a block."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.most = size // _SHORTEST + 1
        widths = {"rows": size + _PAD, "hashes": WIDTH * self.most, "shapes": self.most, "flags": self.most}
        widths |= dict.fromkeys(("lines", "sizes", "characters"), 8 * self.most)
        self._held = {name: (ctypes.c_char * width)() for name, width in widths.items()}
        self._views = {name: memoryview(held).cast("B") for name, held in self._held.items()}

    def lend(self, scan: _Scan) -> None:
        for name, held in self._held.items():
            setattr(scan, name, ctypes.addressof(held))
        scan.room = self.most

    def bytes_of(self, name: str, size: int) -> bytes:
        return bytes(self._views[name][:size])

    def numbers(self, name: str, count: int) -> array[int]:
        numbers = array("Q")
        numbers.frombytes(self._views[name][: 8 * count])
        return numbers


class Scanner:
    """Reads runs of plain chats; see `plain_chats.Runs`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._scan = library.scan
        self._scan.argtypes, self._scan.restype = [ctypes.POINTER(_Scan)], None
        self._known = (ctypes.c_uint64 * _MOST_SHAPES)()
        self._shapes: dict[int, Shape | None] = {}
        self._places: list[Shape] = []
        self._room = _Room(0)
        self._kinds = _kinds()

    def run(self, data: bytes, at: int, line: int) -> Run | None:
        """See `plain_chats.Runs`."""
        if len(data) > self._room.size:
            self._room = _Room(len(data))
        scan = _Scan(
            data=data,
            size=len(data),
            known=ctypes.addressof(self._known),
            known_count=len(self._places),
            kinds=self._kinds,
            long_answer=endings.CUT_LENGTH,
            longest_line=MAX_RECORD_BYTES,
            least_word=personal_data.LEAST_KEY,
            least_digits=personal_data.LEAST_DIGITS,
            at=at,
            line=line,
        )
        self._room.lend(scan)
        self._scan(scan)
        while scan.strange and self._learns(scan.strange):
            scan.known_count = len(self._places)
            self._scan(scan)
        return self._told(scan) if scan.count else None

    def _learns(self, number: int) -> bool:
        """Whether conversations of this shape are plain, and known now."""
        if number not in self._shapes and len(self._places) < _MOST_SHAPES:
            self._shapes[number] = shape = shape_of(_roles(number))
            if shape is not None:
                self._known[len(self._places)] = number
                self._places.append(shape)
                return True
        return False

    def _told(self, scan: _Scan) -> Run:
        room, count = self._room, scan.count
        flags = room.bytes_of("flags", count)
        rows, sizes, lines = room.bytes_of("rows", scan.written), room.numbers("sizes", count), room.numbers("lines", count)
        shapes = Counter(room.bytes_of("shapes", count))
        return Run(
            at=scan.at,
            line=scan.line,
            rows=rows,
            sizes=sizes,
            lines=lines,
            characters=room.numbers("characters", count),
            hashes=room.bytes_of("hashes", WIDTH * count),
            shapes=Counter({self._places[place]: rows for place, rows in shapes.items()}),
            suspects=[at for at, flag in enumerate(flags) if flag & _SUSPECT],
            ends=_ends(flags, rows, sizes, lines),
        )


def prepared() -> Path | None:
    """Where the scanner is compiled to: it may be there in a second only, and nobody waits for it. None where it cannot be."""
    library = compiled.place(SOURCE)
    if library is not None and not compiled.is_made(library):
        threading.Thread(target=compiled.make, args=(SOURCE, library), name="compile-scanner", daemon=True).start()
    return library


def opened(library: Path) -> Scanner | None:
    """The scanner that was compiled to this place; None where there is none (yet)."""
    if sys.byteorder != "little" or not compiled.is_made(library):
        return None
    found = compiled.opened(library)
    return None if found is None else Scanner(found)


def _roles(shape: int) -> tuple[str, ...]:
    """The roles that a number stands for: two bits each, the last one lowest, after a one."""
    count = (shape.bit_length() - 1) // 2
    return tuple(_ROLES[shape >> 2 * at & 3] for at in reversed(range(count)))


def _ends(flags: bytes, rows: bytes, sizes: array[int], lines: array[int]) -> Ends:
    """How long answers end: most of them with a sign that says so."""
    ends, start = Ends(), 0
    for flag, size, line in zip(flags, sizes, lines, strict=True):
        if flag & _OPEN:
            ends.look(line, orjson.loads(rows[start : start + size])["messages"][-1]["content"])
        elif flag & _LONG:
            ends.long += 1
        start += size
    return ends
