"""What is kept of the rows of a file while they go by: the canonical rows, where each lies, and their hashes."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType

from luthier.datasets.row_hashes import Spill, cut
from luthier.datasets.strict_json import dump

PLACE = struct.Struct("=QQ")


@dataclass(frozen=True, slots=True)
class Keepsakes:
    """What is kept of a part of the file."""

    hashes: bytes
    """Of all rows that can be used, whether they are kept or not."""
    rows: bytes | memoryview
    lines: array[int]
    """Of each of these rows."""
    sizes: array[int]
    dropped: bytes = b""


class Kept:
    """Writes `rows`, and into the folder `side` an index of them and their sorted hashes."""

    def __init__(self, rows: Path, side: Path) -> None:
        self.rows_path, self.side = rows, side
        self._rows = rows.open("wb")
        self._index = (side / "index").open("wb")
        self._spill = Spill(side)
        self._dropped = (side / "dropped").open("wb")
        self._digest = hashlib.sha256()
        self._offset = 0

    @property
    def hashes_path(self) -> Path:
        return self.side / "hashes"

    @property
    def sha256(self) -> str:
        """Of the rows so far."""
        return self._digest.hexdigest()

    def add(self, some: Keepsakes) -> None:
        """The next rows of the file."""
        self._spill.add(*cut(some.hashes))
        self._dropped.write(some.dropped)
        self._rows.write(some.rows)
        self._digest.update(some.rows)
        places = array("Q", bytes(PLACE.size * len(some.lines)))
        starts = array("Q", accumulate(some.sizes, initial=self._offset))
        self._offset = starts.pop()
        places[0::2], places[1::2] = some.lines, starts
        self._index.write(places)

    def drop(self, line: int, code: str, message: str) -> None:
        """A row that is left out, as was asked."""
        self._dropped.write(dropped(line, code, message))

    def close(self) -> None:
        """All is written; the hashes are sorted now."""
        self._rows.close()
        self._index.close()
        self._spill.close(self.hashes_path)

    def remove(self, lines: Sequence[int]) -> None:
        """Take these lines out again: what is left is `rows`, without index and hashes of its own."""
        unwanted, digest = iter(sorted(lines)), hashlib.sha256()
        left, next_one = self.side / "left", next(unwanted, None)
        with self.rows_path.open("rb") as rows, left.open("wb") as file:
            for (line, _), row in zip(places(self.side / "index"), rows, strict=True):
                if line == next_one:
                    next_one = next(unwanted, None)
                else:
                    file.write(row)
                    digest.update(row)
        left.replace(self.rows_path)
        self._digest = digest

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._rows, self._index, self._dropped):
            file.close()


def dropped(line: int | None, code: str, message: str) -> bytes:
    """A row that is left out, as it is listed."""
    return dump({"line": line, "code": code, "message": message}) + b"\n"


def places(index: Path, first: int = 0) -> Iterator[tuple[int, int]]:
    """Line and place in `rows` of each row that was kept, from the n-th on."""
    with index.open("rb") as file:
        file.seek(first * PLACE.size)
        while block := file.read(PLACE.size * 4096):
            yield from PLACE.iter_unpack(block)
