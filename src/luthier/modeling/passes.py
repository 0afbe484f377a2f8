"""How a batch asks its base: pieces of prompts, or the next token of each of its rows.

`Batch` (batching.py) decides who is asked when; a `Passes` keeps their keys and values; a `Loader` reads bases and adapters, and
says by which passes they are asked. Shapes as suffixes: B rows of the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class Answering(Protocol):
    """A base in memory, as far as whoever answers by it must know it."""

    @property
    def vocab(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def n_params(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...


class Kept(Protocol):
    """What stands for a row in the passes."""

    @property
    def length(self) -> int:
        """Tokens of it that need not be read any more."""
        ...


class Passes(Protocol):
    """Some rows of one base."""

    def begin(self, adapter: Any, prompt: Sequence[int], most: int) -> Kept | None:
        """A new row, which may get up to `most` tokens after its prompt. None where there is no room for it yet."""
        ...

    def read(self, rows: Sequence[Any], pieces: Sequence[Sequence[int]]) -> Tensor:
        """Go on with the prompts of rows, a piece each; logits after the last token of each, shape (B, V)."""
        ...

    def decode(self, rows: Sequence[Any], tokens: Sequence[int]) -> Tensor:
        """Add one token to each row; logits after it, shape (B, V). Rows that were here before stand in the same order."""
        ...

    def end(self, row: Any) -> None:
        """It is not asked for any more."""
        ...


class Loader(Protocol):
    """One way to compute. Raises: BaseUnavailable, ModelNotAllowed, ArtifactCorrupt."""

    def base(self, folder: Path) -> Answering:
        """The base in a folder."""
        ...

    def adapter(self, base: Any, base_folder: Path, folder: Path) -> Any:
        """The adapter in a folder, for a base that this loaded from its own."""
        ...

    def passes(self, base: Any) -> Passes:
        """How that base is asked."""
        ...
