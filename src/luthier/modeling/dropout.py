"""Which inputs of an adapter are left out in training: the same bits at every look, whoever trains beside.

Each layer that learns drops its own share of its input. What is dropped is a function of the engine's seed, the layer's path,
the token's number since the seed, and the column: no mask is ever kept, a pass cut in two drops what the whole one would,
and both engines drop the same. What is left is made larger to match by `Drop.scale`, not by the mask.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from luthier.modeling.kernels import Mask


@dataclass(frozen=True)
class Drop:
    """What one pass leaves out."""

    share: float
    seed: int
    first: int
    """Number of the pass's first token since the seed."""

    @property
    def scale(self) -> float:
        """What an adapter's update is multiplied by, so that it is as large as without dropout on average."""
        return 1 / (1 - self.share)

    def at(self, path: str) -> Mask:
        """Of the layer with that path in the model."""
        digest = hashlib.blake2b(f"{self.seed} {path}".encode(), digest_size=8).digest()
        below = min(round(self.share * 2**32), 2**32 - 1) - 2**31
        return Mask(int.from_bytes(digest, "little", signed=True), self.first, below)

    def after(self, tokens: int) -> Drop:
        """The same pass, looked at from that token of it on."""
        return Drop(self.share, self.seed, self.first + tokens)


class Dropout:
    """One engine's dropout: counts the tokens that it learned from since its seed."""

    def __init__(self, share: float) -> None:
        self._share, self._seed, self._tokens = share, 0, 0

    def seed(self, number: int) -> None:
        self._seed, self._tokens = number, 0

    def take(self, tokens: int) -> Drop | None:
        """For a pass of so many tokens; None where nothing is dropped."""
        if not self._share:
            return None
        drop = Drop(self._share, self._seed, self._tokens)
        self._tokens += tokens
        return drop
