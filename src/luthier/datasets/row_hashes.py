"""Hashes of rows in sorted files: what finds equal rows, conflicts and leakage exactly, at any size, in constant memory.

A record is 42 bytes: the hash of what is asked, of what has one answer, of the whole row, and the line. Sorted, equal rows and
rows that ask the same stand side by side, and two files are compared by one pass over both.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import mmap
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from luthier.datasets.examples import Example, Labelled, Pair, Prompt, Rated, Row

WIDTH = 42
_HASH = 12
_LINE = 6
_KEY = 3 * _HASH
_RUN = 200_000
"""Records that are sorted in memory at a time: about 20 MiB."""
_BLOCK = WIDTH * 1024
NOTHING = bytes(_HASH)
"""Instead of a hash where a row asks nothing: such rows have nothing in common by that."""
_WAITING = 10_000
"""Rows of one version that wait for one of the other that asks the same."""


class Hashes(NamedTuple):
    """One record."""

    asked: bytes
    question: bytes
    """What has one answer: of pairs the prompt with both answers, of ratings the prompt with the answer, else what is asked."""
    row: bytes
    line: int


def hashes(row: Row, canonical: bytes, line: int) -> bytes:
    """The record of one row: its parts are found in the canonical bytes, where a quotation mark in a text is escaped."""
    until = _answer_at(row, canonical)
    question = b""
    if isinstance(row, Pair):
        worse = canonical.find(b',"rejected":', until)
        answers = sorted((canonical[until + len(b',"chosen":') : worse], canonical[worse + len(b',"rejected":') : -2]))
        question = _hash(canonical[:until] + b"\n".join(answers))
    elif isinstance(row, Rated):
        question = _hash(canonical[: canonical.rfind(b',"label":')])
    return _record(canonical, until, line, asks=_asks(row, canonical, until), question=question)


def chat_hashes(canonical: bytes, line: int, *, asks: bool) -> bytes:
    """The record of a conversation that ends with the assistant; `asks` where the user speaks before that."""
    return _record(canonical, canonical.rfind(b'{"role":"assistant"'), line, asks=asks)


def _record(canonical: bytes, until: int, line: int, *, asks: bool, question: bytes = b"") -> bytes:
    digest = hashlib.blake2b(canonical[:until], digest_size=_HASH)
    prompt = digest.digest() if asks else NOTHING
    digest.update(canonical[until:])
    return prompt + (question or prompt) + digest.digest() + line.to_bytes(_LINE, "big")


class Spill:
    """Takes records in any order and writes them sorted."""

    def __init__(self, folder: Path, at_once: int = _RUN) -> None:
        self._folder = folder
        self._at_once = at_once
        self._run: list[bytes] = []
        self._runs: list[Path] = []

    def add(self, records: bytes) -> None:
        """Some more, side by side; quicker where they are sorted."""
        self._run += cut(records)
        if len(self._run) >= self._at_once:
            self._spill()

    def close(self, path: Path) -> None:
        """Write all records to `path`, in order."""
        if not self._runs:
            path.write_bytes(b"".join(sorted(self._run)))
            return
        self._spill()
        with ExitStack() as stack, path.open("wb") as file:
            file.writelines(_in_order([stack.enter_context(run.open("rb")) for run in self._runs]))
        for run in self._runs:
            run.unlink()

    def _spill(self) -> None:
        path = self._folder / f"hashes-{len(self._runs)}"
        path.write_bytes(b"".join(sorted(self._run)))
        self._runs.append(path)
        self._run = []


def raw_records(path: Path) -> Iterator[bytes]:
    """The records of a sorted file."""
    with path.open("rb") as file:
        yield from _cut(file)


def _cut(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield from cut(block)


def _in_order(runs: list[BinaryIO]) -> Iterator[bytes]:
    """The records of sorted files, many at a time. What is in memory of each file is sorted together up to the lowest of their
    last records: nothing lower can follow. Sorting again what is sorted in parts is quick, and far quicker than one by one."""
    held: list[list[bytes]] = [[] for _ in runs]
    while True:
        for at, file in enumerate(runs):
            held[at] = held[at] or cut(file.read(_BLOCK))
        last = [records[-1] for records in held if records]
        if not last:
            return
        low = min(last)
        some: list[bytes] = []
        for records in held:
            until = bisect.bisect_right(records, low)
            some += records[:until]
            del records[:until]
        some.sort()
        yield b"".join(some)


def cut(block: bytes | bytearray) -> list[bytes]:
    """Records that stand side by side."""
    block = bytes(block)
    return [block[at : at + WIDTH] for at in range(0, len(block), WIDTH)]


def record(raw: bytes) -> Hashes:
    return Hashes(raw[:_HASH], raw[_HASH : 2 * _HASH], raw[2 * _HASH : 3 * _HASH], int.from_bytes(raw[3 * _HASH :], "big"))


class Repeats:
    """Equal rows and contradictions within one file: all counted, the first ones kept."""

    def __init__(self, most: int) -> None:
        self.duplicates = First(most)
        self.conflicts = First(most)
        self.again = array("Q")
        """The lines of all rows that are equal to an earlier one: 8 bytes each."""
        self._first = self._original = 0
        """The lines of the first row that asks what the last one asks, and of the first that is like the last one."""

    def look(self, path: Path) -> None:
        """Go once through a sorted file."""
        before = b""
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                before = self._block(cut(block), before)

    def _block(self, records: list[bytes], before: bytes) -> bytes:
        """The records that follow the one `before`. Returns the last one."""
        questions = {raw[: 2 * _HASH] for raw in records}
        questions.add(before[: 2 * _HASH])
        if len(questions) <= len(records):
            for raw in records:
                self._next(raw, before)
                before = raw
        else:
            # No two of them ask the same: most blocks of most files.
            self._first = self._original = _line(records[-1])
        return records[-1]

    def _next(self, raw: bytes, before: bytes) -> None:
        line = _line(raw)
        if raw[:_KEY] == before[:_KEY]:
            self.duplicates.add(line, self._original)
            self.again.append(line)
        elif raw[: 2 * _HASH] == before[: 2 * _HASH] and raw[_HASH : 2 * _HASH] != NOTHING:
            # Rows that ask the same are sorted by hash: whichever comes first, the later line is the one that is told.
            self.conflicts.add(*sorted((line, self._first), reverse=True))
            self._original = line
        else:
            self._first = self._original = line


class First:
    """Counts pairs of (line, line that it goes with), and keeps those with the lowest lines."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most
        self._kept: list[tuple[int, int]] = []

    def add(self, line: int, other: int) -> None:
        self.count += 1
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, (-line, other))
        elif -line > self._kept[0][0]:
            heapq.heapreplace(self._kept, (-line, other))

    def merge(self, other: First) -> None:
        """Add what another one counted, of other lines."""
        for line, kept in other:
            self.add(line, kept)
        self.count += other.count - len(other._kept)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(sorted((-line, other) for line, other in self._kept))


class Overlap(NamedTuple):
    """Rows of one file that another holds, too."""

    rows: First
    """The whole row."""
    prompts: First
    """What is asked, but with another answer."""


def overlap(path: Path, other: Path, most: int) -> Overlap:
    """What `path` shares with `other`; lines are (of `path`, of `other`). Quick where `path` is the smaller one."""
    found = Overlap(First(most), First(most))
    with _Sorted(other) as theirs:
        at = 0
        for raw in raw_records(path):
            mine = record(raw)
            at = theirs.find(raw[:_KEY], at)
            near = [record(each) for each in theirs.around(at)]
            if near[-1:] and near[-1].row == mine.row and near[-1].asked == mine.asked:
                found.rows.add(mine.line, near[-1].line)
            elif mine.asked != NOTHING:
                same = [each for each in near if each.asked == mine.asked]
                if same:
                    found.prompts.add(mine.line, same[0].line)
    return found


class Difference:
    """What became of the rows of one version in the next: all counted, the first ones kept as (line, 0) or (new, old)."""

    def __init__(self, most: int) -> None:
        self.added, self.dropped, self.changed = First(most), First(most), First(most)
        self.same = 0

    def look(self, old: Path, new: Path) -> None:
        """Go once through both sorted files."""
        for asked, steps in groupby(_merged(old, new), key=lambda step: step[0][:_HASH]):
            before: list[int] = []
            after: list[int] = []
            for _, was, now in steps:
                if was is not None and now is not None:
                    self.same += 1
                elif was is not None:
                    self._pair(before, after, was, now=False, nothing=asked == NOTHING)
                elif now is not None:
                    self._pair(after, before, now, now=True, nothing=asked == NOTHING)
            for line in before:
                self.dropped.add(line, 0)
            for line in after:
                self.added.add(line, 0)

    def _pair(self, own: list[int], others: list[int], line: int, *, now: bool, nothing: bool) -> None:
        """A row that asks what a row of the other version asks is a changed one. What waits for its like stays small."""
        if others and not nothing:
            other = others.pop()
            self.changed.add(*((line, other) if now else (other, line)))
        elif nothing or len(own) >= _WAITING:
            (self.added if now else self.dropped).add(line, 0)
        else:
            own.append(line)


def _merged(old: Path, new: Path) -> Iterator[tuple[bytes, int | None, int | None]]:
    """Both files in order: (key, line in the old one, line in the new one); equal rows are met in pairs."""
    left, right = raw_records(old), raw_records(new)
    was, now = next(left, b""), next(right, b"")
    while was or now:
        if now and was[:_KEY] == now[:_KEY]:
            yield was[:_KEY], _line(was), _line(now)
            was, now = next(left, b""), next(right, b"")
        elif not now or (was and was[:_KEY] < now[:_KEY]):
            yield was[:_KEY], _line(was), None
            was = next(left, b"")
        else:
            yield now[:_KEY], None, _line(now)
            now = next(right, b"")


class _Sorted:
    """A sorted file as a list that is searched where it lies."""

    def __init__(self, path: Path) -> None:
        self._count = path.stat().st_size // WIDTH
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._count else None

    def __enter__(self) -> _Sorted:
        return self

    def __exit__(self, *_: object) -> None:
        if self._map is not None:
            self._map.close()

    def find(self, key: bytes, start: int) -> int:
        """The first record that is not below `key`, at `start` or after it: in steps that double, then by halves."""
        step, low = 1, start
        while low + step < self._count and self._key(low + step) < key:
            low, step = low + step, 2 * step
        return bisect.bisect_left(range(self._count), key, low, min(low + step + 1, self._count), key=self._key)

    def around(self, at: int) -> list[bytes]:
        """The records before `at` and at it."""
        return [self._map[each * WIDTH : (each + 1) * WIDTH] for each in (at - 1, at) if self._map and 0 <= each < self._count]

    def _key(self, at: int) -> bytes:
        return self._map[at * WIDTH : at * WIDTH + _KEY] if self._map else b""


def _line(raw: bytes) -> int:
    return int.from_bytes(raw[_KEY:WIDTH], "big")


def _answer_at(row: Row, canonical: bytes) -> int:
    """Where in the bytes of a row its (last) answer starts."""
    if isinstance(row, Example):
        return canonical.rfind(b'{"role":"assistant"') if row.prompt is None else canonical.find(b',"completion":')
    if isinstance(row, Pair):
        return canonical.find(b',"chosen":')
    if isinstance(row, Rated):
        return canonical.find(b',"completion":')
    return canonical.find(b',"item":') if isinstance(row, Prompt) else canonical.rfind(b',"label":')


def _asks(row: Row, canonical: bytes, until: int) -> bool:
    if isinstance(row, Example) and row.prompt is None:
        return canonical.find(b'"role":"user"', 0, until) >= 0
    return until > len(b'{"prompt":""') or isinstance(row, Labelled)


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_HASH).digest()
