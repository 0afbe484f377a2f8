"""What a trainer and those who help it do alike: read blocks of a data file, and make numbers of their rows. No torch, so that a
process that only does this starts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from luthier.datasets.formats import row_blocks
from luthier.datasets.learning import Lesson, positions
from luthier.datasets.lines import Block
from luthier.training.batches import Part

_BESIDE: Mapping[str, Callable[[Any], Any]] = {
    "kto": lambda rated: rated.label,
    "grpo": lambda prompt: prompt.item,
    "classifier": lambda labelled: labelled.label,
}
"""What a method keeps of a row beside its tokens."""


@dataclass(frozen=True)
class Reading:
    """A data file, and how it is read."""

    path: Path
    method: str
    max_seq_len: int
    base: Path | None = None
    """The folder that the renderer was loaded from. Without it nobody can help."""
    helpers: int = 0
    """Most processes that help."""
    least_bytes: int = 2 * 1024 * 1024
    """Of a smaller file, one process makes tokens in the time in which others come to help."""
    block_bytes: int = 256 * 1024
    """Of a block: so few that all have work until the end of the file, and that what is made of it is small."""


class _Sips:
    """A stream that gives no more than `most` at a time."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1, /) -> bytes:
        return self._stream.read(self._most if size < 0 else min(size, self._most))


def blocks_of(stream: BinaryIO, reading: Reading) -> Iterator[Block]:
    """A data file in blocks, the same for whoever reads it. Raises: BadRow."""
    return row_blocks(_Sips(stream, reading.block_bytes))


def part_of(method: str, learned: Iterable[Lesson[Any]]) -> Part:
    """What a method keeps of what it learns: of a pair both rows follow each other, the chosen one first."""
    part, beside = Part(), _BESIDE.get(method)
    for lesson in learned:
        part.truncated += lesson.truncated
        if lesson.why_left_out is not None:
            part.dropped += 1
            continue
        for row in lesson.parts:
            part.append(row.ids, positions(row.loss), row.weight)
        if beside is not None:
            part.beside.append(beside(lesson.row))
    return part
