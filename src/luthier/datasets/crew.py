"""Processes that do the same work on one piece after another, and give what they made back in the order of the pieces.

They are forks of the one that calls: they know all that it knew, have its limits, and end when it ends. Pieces and results lie in
memory that both see; only their sizes go through pipes, which therefore never fill up.
"""

from __future__ import annotations

import gc
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

_SIZES = struct.Struct("=QQQ")
_TOO_LARGE = 2**64 - 1
SLOT_BYTES = 4 * 1024 * 1024
"""Of one piece, and of what is made of it."""
_AHEAD = 2
"""Pieces that lie ready for a process, so that it never waits."""
EXIT_MEMORY = 3

Work = Callable[[memoryview], Sequence[bytes | bytearray | memoryview]]
"""From a piece to what is made of it, in two parts; MemoryError ends all."""


@dataclass(frozen=True, slots=True)
class _Hand:
    """One process, and what it shares with us."""

    pid: int
    tasks: int
    answers: int
    slots: tuple[mmap.mmap, ...]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """So many processes. Give pieces with `put` until it is `full`, and take results with `get`, in the same order."""

    def __init__(self, work: Work, count: int) -> None:
        self._hands: list[_Hand] = []
        self._waiting: deque[tuple[_Hand, mmap.mmap]] = deque()
        self._given = 0
        for _ in range(count):
            self._hands.append(self._hired(work))

    @property
    def full(self) -> bool:
        return len(self._waiting) == _AHEAD * len(self._hands)

    @property
    def empty(self) -> bool:
        return not self._waiting

    def put(self, *parts: bytes) -> None:
        """Give the next piece, of at most SLOT_BYTES in all."""
        hand = self._hands[self._given % len(self._hands)]
        slot = hand.slots[self._given // len(self._hands) % _AHEAD]
        self._given += 1
        _send(hand.tasks, _put(memoryview(slot), parts), 0, 0)
        self._waiting.append((hand, slot))

    def get(self) -> tuple[memoryview, memoryview] | None:
        """What was made of the earliest piece, until the next `put`; None where that was too large. Raises: MemoryError."""
        hand, slot = self._waiting.popleft()
        sizes = _receive(hand.answers)
        if sizes is None:
            self._mourn(hand)
        first, second, _ = sizes
        if first == _TOO_LARGE:
            return None
        view = memoryview(slot)[SLOT_BYTES:]
        return view[:first], view[first : first + second]

    def map(self, pieces: Iterable[bytes]) -> Iterator[memoryview]:
        """What is made of each piece. Raises: ValueError where that is too large."""
        for piece in pieces:
            if self.full:
                yield self._first()
            self.put(piece)
        while not self.empty:
            yield self._first()

    def _first(self) -> memoryview:
        made = self.get()
        if made is None:
            raise ValueError("a result has no room")
        return made[0]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send all home; what was not taken is lost."""
        for hand in self._hands:
            os.close(hand.tasks)
        for hand in self._hands:
            os.close(hand.answers)
            os.waitpid(hand.pid, 0)
        self._hands.clear()

    def _hired(self, work: Work) -> _Hand:
        slots = tuple(mmap.mmap(-1, 2 * SLOT_BYTES) for _ in range(_AHEAD))
        (tasks, give), (answers, answer) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            for each in (give, answers, *(fd for hand in self._hands for fd in (hand.tasks, hand.answers))):
                os.close(each)
            _work(work, tasks, answer, slots)
        os.close(tasks)
        os.close(answer)
        return _Hand(pid, give, answers, slots)

    def _mourn(self, hand: _Hand) -> NoReturn:
        """A process that ended takes us with it, for the same reason."""
        self._hands.remove(hand)
        _, status = os.waitpid(hand.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == EXIT_MEMORY:
            raise MemoryError
        if code < 0:
            os.kill(os.getpid(), -code)
        raise SystemExit(1)


def _work(work: Work, tasks: int, answers: int, slots: Sequence[mmap.mmap]) -> NoReturn:
    """The life of one process."""
    # Whoever waits for the end of our parent's output must not wait for ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    gc.freeze()
    gc.disable()  # rows make no cycles, but many small objects
    status, number = 1, 0
    try:
        while (sizes := _receive(tasks)) is not None:
            view = memoryview(slots[number % len(slots)])
            first, second = work(view[: sizes[0]])
            if len(first) + len(second) > SLOT_BYTES:
                _send(answers, _TOO_LARGE, 0, 0)
            else:
                _put(view[SLOT_BYTES:], (first, second))
                _send(answers, len(first), len(second), 0)
            number += 1
            gc.collect()
        status = 0
    except MemoryError:
        status = EXIT_MEMORY
    except BrokenPipeError:
        status = 0
    finally:
        os._exit(status)


def _put(room: memoryview, parts: Iterable[bytes | bytearray | memoryview]) -> int:
    """Write parts one after another, without putting them together first. Returns their size."""
    at = 0
    for part in parts:
        room[at : at + len(part)] = part
        at += len(part)
    return at


def _send(pipe: int, *sizes: int) -> None:
    os.write(pipe, _SIZES.pack(*sizes))


def _receive(pipe: int) -> tuple[int, int, int] | None:
    said = os.read(pipe, _SIZES.size)
    return _SIZES.unpack(said) if said else None
