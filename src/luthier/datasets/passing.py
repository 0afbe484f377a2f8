"""One pass over the blocks of a file: whoever checks them, what is said of them is put together in their order.

A file starts alone. Once it is clear what its rows are, a crew checks block after block; the report is the same as without one.
"""

from __future__ import annotations

import pickle
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from luthier.datasets import rules
from luthier.datasets.block_checks import Checked, Inspector
from luthier.datasets.content import Content
from luthier.datasets.crew import SLOT_BYTES, Crew
from luthier.datasets.examples import Labelled, Row
from luthier.datasets.formats import stored_row
from luthier.datasets.keeping import Keepsakes, Kept
from luthier.datasets.lines import Block, Lines
from luthier.datasets.measuring import Measure
from luthier.datasets.tally import Tally

_HEAD = struct.Struct("=??QQ")
"""Of what goes to another process: whether it is lines, whether the file is rejected already, the first line, and how many."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a file is gone through."""

    drop: bool = False
    """Bad rows are left out, and remarked."""
    workers: int = 1
    max_rows: int = rules.MAX_ROWS
    library: Path | None = None
    """Where the scanner is compiled to."""
    tell: Callable[[Tally], None] = lambda _: None
    """Hears after each block what was found so far."""


class Pass:
    """Goes once over a file."""

    def __init__(self, kept: Kept, measure: Measure, content: Content, mapping: Mapping[str, str], way: Way) -> None:
        self.tally = Tally(drop=way.drop)
        self._kept, self._measure, self._content = kept, measure, content
        self._inspector = Inspector(mapping, content, drop=way.drop, library=way.library)
        self._workers, self._max_rows, self._tell = way.workers, way.max_rows, way.tell
        self._crew: Crew | None = None
        self._away: deque[tuple[Block, bool]] = deque()
        self._records = self._good = self._most = 0
        self._over = False

    def go(self, blocks: Iterable[Block]) -> None:
        """Check them all, or up to the first after which nothing can be read."""
        try:
            for block in blocks:
                self._most += block.count
                if self._crew is None or self._most > self._max_rows or not self._gave(self._crew, block):
                    self._gather()
                    self._look(block)
                if self._over:
                    break
            self._gather()
        finally:
            if self._crew is not None:
                self._crew.close()

    def _look(self, block: Block) -> None:
        """Check a block here and now."""
        if self._over:
            return
        most = self._max_rows - self._records if self._most > self._max_rows else None
        checked = self._inspector.check(block, self.tally, most=most)
        if self._crew is None and self._workers > 1 and self._inspector.shareable:
            self._crew = Crew(self._piece, self._workers)
        self._take(checked)

    def _gave(self, crew: Crew, block: Block) -> bool:
        """Whether the crew got the block; not if it is too large."""
        rejected = self.tally.errors > 0
        parts = _packed(block, rejected=rejected)
        if sum(map(len, parts)) > SLOT_BYTES:
            return False
        if crew.full:
            self._receive(crew)
        crew.put(*parts)
        self._away.append((block, rejected))
        return True

    def _piece(self, piece: memoryview) -> tuple[bytes, bytes | bytearray | memoryview]:
        """What one of the crew does."""
        block, rejected = _unpacked(piece)
        checked = self._inspector.check(block, self.tally.fresh(), rejected=rejected)
        lean = replace(checked, kept=replace(checked.kept, rows=b""))
        return pickle.dumps(lean, pickle.HIGHEST_PROTOCOL), checked.kept.rows

    def _gather(self) -> None:
        while self._crew is not None and self._away and not self._over:
            self._receive(self._crew)

    def _receive(self, crew: Crew) -> None:
        made, (block, rejected) = crew.get(), self._away.popleft()
        if made is None or (self.tally.errors and not rejected):
            # It was checked as if all were well before it.
            checked = self._inspector.check(block, self.tally)
        else:
            checked: Checked = pickle.loads(made[0])  # noqa: S301  # of our own fork
            checked = replace(checked, kept=replace(checked.kept, rows=made[1]))
            self.tally.add(checked.tally)
        self._take(checked)

    def _take(self, checked: Checked) -> None:
        self._records += checked.records
        self._over = checked.fatal
        self._kept.add(checked.kept)
        self._content.ends.add(checked.ends)
        self._measure.distributions.rows(checked.turns, checked.sources)
        for row in self._sample(checked.kept, self._content.every):
            if not isinstance(row, Labelled) or row.text is not None:
                self._content.listen(row)
        self._good += len(checked.kept.lines)
        self._tell(self.tally)

    def _sample(self, kept: Keepsakes, every: int) -> Iterator[Row]:
        """Each n-th row of all that are kept."""
        ends = list(accumulate(kept.sizes))
        for at in range(-self._good % every, len(ends), every):
            yield stored_row(kept.lines[at], bytes(kept.rows[ends[at] - kept.sizes[at] : ends[at]]))


def _packed(block: Block, *, rejected: bool) -> tuple[bytes, bytes]:
    """What goes to another process. Lines stay as they are: to pickle them would be to copy all of the file once more."""
    if isinstance(block, Lines):
        return _HEAD.pack(True, rejected, block.first, block.count), block.data
    return _HEAD.pack(False, rejected, 0, 0), pickle.dumps(block, pickle.HIGHEST_PROTOCOL)


def _unpacked(piece: memoryview) -> tuple[Block, bool]:
    is_lines, rejected, first, count = _HEAD.unpack_from(piece)
    data = piece[_HEAD.size :]
    return Lines(first, count, bytes(data)) if is_lines else pickle.loads(data), rejected  # noqa: S301  # of our parent
