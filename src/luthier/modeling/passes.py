"""How a batch asks its base: a piece of one prompt, or the next token of each of its rows.

`Batch` (batching.py) decides who is asked when; a `Passes` keeps their keys and values. Shapes as suffixes: B rows of the batch,
L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from luthier.modeling.lora import Adapter


class Passes(Protocol):
    """Some rows of one base. What `begin` returns stands for a row; one that is not asked for any more is forgotten with it."""

    def begin(self, adapter: Adapter | None, tokens: int) -> Any:
        """A new row, whose prompt has so many tokens."""
        ...

    def read(self, row: Any, piece: Sequence[int]) -> Tensor:
        """Go on with the prompt of a row; logits after its last token, shape (V,)."""
        ...

    def decode(self, rows: Sequence[Any], tokens: Sequence[int]) -> Tensor:
        """Add one token to each row; logits after it, shape (B, V). Rows that were here before stand in the same order."""
        ...
