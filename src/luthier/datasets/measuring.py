"""Tokens of a sample of the rows: how many there are, how many carry loss, and which rows are too long for the base."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from luthier.datasets.distributions import Distributions
from luthier.datasets.examples import Prompt, Row
from luthier.datasets.formats import stored_row
from luthier.datasets.keeping import Kept, places
from luthier.datasets.tally import Counted, Tally
from luthier.errors import LuthierError

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer

_BATCH = 256
NO_TOKENS = frozenset({"labelled", "images"})
"""A classifier reads such rows in its own way."""
_BATCH_CHARACTERS = 2 * 1024 * 1024
"""Tokens of a text take many times its memory."""
_MOST_CHARACTERS = 128 * 1024 * 1024
"""More can come out of a packed file than the choice of the sample knew of."""


class Measure:
    """Tokenises a sample of the rows, a batch at a time. Without a usable tokenizer it measures nothing."""

    def __init__(self, folder: str | None, context: int | None, every: int) -> None:
        self.distributions = Distributions()
        self._folder = folder
        self._context = context
        self._every = every
        self._batch: list[Row] = []
        self._characters = 0
        self._left = _MOST_CHARACTERS
        self._renderer: Renderer | None = None

    def sample(self, tally: Tally, kept: Kept) -> None:
        """Look at each n-th row of what was kept of a good file."""
        if self._folder is None or tally.errors or tally.schema_name in NO_TOKENS:
            return
        with kept.rows_path.open("rb") as rows:
            for line, start in islice(places(kept.side / "index"), 0, None, self._every):
                self.add(tally, stored_row(line, _at(rows, start)))
        self.flush(tally)

    def add(self, tally: Tally, row: Row) -> None:
        """Look at one of the sample."""
        if self._left < 0:
            return
        self._batch.append(row)
        self._characters += _characters(row)
        if len(self._batch) == _BATCH or self._characters > _BATCH_CHARACTERS:
            self.flush(tally)

    def flush(self, tally: Tally) -> None:
        """Tokenise what waits."""
        batch, self._batch = self._batch, []
        self._left, self._characters = self._left - self._characters, 0
        renderer = self._load(tally) if batch else None
        if renderer is None:
            return
        try:
            self._count(tally, renderer, batch)
        except LuthierError:
            for row in batch:
                try:
                    self._count(tally, renderer, [row])
                except LuthierError as error:
                    tally.note(row.line, "template", "warning", (error.message, error.hint or ""))

    def _count(self, tally: Tally, renderer: Renderer, batch: list[Row]) -> None:
        rendered = iter(renderer.render_batch([example for row in batch for example in row.examples]))
        for row in batch:
            if isinstance(row, Prompt):
                ids = renderer.prompt_of(row)
                tally.measured_prompt(row.line, len(ids), self._context)
                self.distributions.measured_prompt(renderer, row.messages, ids)
                continue
            of_row = [next(rendered) for _ in row.examples]
            learns_late = any(not any(one.loss[: self._context]) for one in of_row)
            counted = Counted([len(one.ids) for one in of_row], sum(sum(one.loss) for one in of_row), learns_late)
            tally.measured(row.line, counted, self._context)
            self.distributions.measured(renderer, row.messages, of_row)
            if any(one.special_text for one in of_row):
                said = "A text spells a special token of the base; it is read as ordinary text."
                tally.note(row.line, "special_text", "warning", (said, "Write roles as messages, not as text."))

    def _load(self, tally: Tally) -> Renderer | None:
        if self._renderer is None and self._folder is not None:
            from luthier.datasets.rendering import Renderer

            try:
                self._renderer = Renderer.load(Path(self._folder))
            except LuthierError as error:
                self._folder = None
                tally.note(None, "template", "warning", (error.message, error.hint or ""))
        return self._renderer


def _characters(row: Row) -> int:
    if isinstance(row, Prompt) and row.text is not None:
        return len(row.text)
    texts = sum(len(example.prompt or "") + len(example.completion or "") for example in row.examples)
    return texts + sum(len(message["content"]) for message in row.messages)


def _at(rows: BinaryIO, start: int) -> bytes:
    rows.seek(start)
    return rows.readline()
