"""From the rows of a data file to the tokens that a method trains on.

A large file is shared with a crew (`token_crew`), block by block. Whatever becomes of the crew, rows, order and refusals are
those of one process that reads the file from front to end: a block that the crew did not do is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.datasets.formats import rows_in
from luthier.datasets.learning import TRAINS_ON, lessons
from luthier.datasets.lines import Block, Lines
from luthier.training.batches import Part, Rows
from luthier.training.parts import Reading, blocks_of, part_of
from luthier.training.token_cache import Kept
from luthier.training.token_crew import TokenCrew, hired

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer

OnBlock = Callable[[float], None]
_ROWS = 512
"""Of a part that is made here."""


def rows_of(method: str, units: Iterable[Any], renderer: Renderer, max_seq_len: int, folder: Path | None = None) -> Kept:
    """Units of the kind that `TRAINS_ON` names, as tokens and the positions that carry loss.

    Rows longer than `max_seq_len` are cut and counted; units that then teach nothing are left out and counted. Prompts are never
    cut. folder: where the numbers lie. Raises: OSError; Invalid `template`.
    """
    return _gathered(_parts_of(method, units, renderer, max_seq_len), folder)


def tokens_of_file(reading: Reading, renderer: Renderer, on_block: OnBlock, folder: Path | None = None) -> Kept:
    """The rows of a data file, as `rows_of` has them. on_block: hears before each block which share of the file was read.

    Raises: BadRow for the first record that cannot be used; as `rows_of`; what `on_block` raises.
    """
    with hired(reading, renderer) as crew:
        return shared_tokens(reading, renderer, on_block, crew, folder)


def shared_tokens(
    reading: Reading, renderer: Renderer, on_block: OnBlock, crew: TokenCrew | None, folder: Path | None = None
) -> Kept:
    """As `tokens_of_file`, with a crew that was hired for this file."""
    size = max(1, reading.path.stat().st_size)
    with reading.path.open("rb") as stream:
        blocks = _heard(blocks_of(stream, reading), lambda: on_block(stream.tell() / size))
        return _gathered(_shared(blocks, renderer, reading, crew), folder)


def _gathered(parts: Iterable[Part], folder: Path | None) -> Kept:
    rows, beside = Rows(folder), list[Any]()
    for part in parts:
        rows.extend(part)
        beside += part.beside
    return Kept(rows, beside)


def _shared(blocks: Iterator[Block], renderer: Renderer, reading: Reading, crew: TokenCrew | None) -> Iterator[Part]:
    yield from _parts_of_blocks(_until_begun(blocks, crew), renderer, reading)
    for block in blocks:
        part = crew.next_part() if crew is not None else None
        if part is not None:
            yield part
        else:
            alone = crew is None or not crew.works
            yield from _parts_of_blocks(chain([block], blocks) if alone else [block], renderer, reading)


def _parts_of_blocks(blocks: Iterable[Block], renderer: Renderer, reading: Reading) -> Iterator[Part]:
    units = chain.from_iterable(rows_in(block, TRAINS_ON[reading.method]) for block in blocks)
    return _parts_of(reading.method, units, renderer, reading.max_seq_len)


def _parts_of(method: str, units: Iterable[Any], renderer: Renderer, max_seq_len: int) -> Iterator[Part]:
    learned = lessons(method, units, renderer, max_seq_len)
    while some := list(islice(learned, _ROWS)):
        yield part_of(method, some)


def _until_begun(blocks: Iterator[Block], crew: TokenCrew | None) -> Iterator[Block]:
    """The blocks before the one with which the crew begins: it takes a moment to come."""
    for number, block in enumerate(blocks, 1):
        yield block
        if crew is not None and isinstance(block, Lines) and crew.begins(number):
            return


def _heard(blocks: Iterator[Block], tell: Callable[[], None]) -> Iterator[Block]:
    for block in blocks:
        tell()
        yield block
