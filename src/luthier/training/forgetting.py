"""What a model forgot: how well it still predicts a plain text that has nothing to do with what it learned.

`neutral.txt` was written for this, so no base has read it. A rise of its cross-entropy from the base to the tuned model is what
the tuning cost in general language; the text is small, so a change of a few hundredths says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.training.batches import Row, pack

if TYPE_CHECKING:
    from luthier.datasets.rendering import Renderer
    from luthier.training.evaluate import Sides
    from luthier.training.method import Engine

_TEXT = Path(__file__).with_name("neutral.txt")
_PIECE_TOKENS = 256
"""As much context as a token is given. It bounds memory, and every base can hold it."""


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of the text; each but the first is predicted from those before it."""

    row: Row

    @property
    def predicted(self) -> int:
        return len(self.row.loss_at)


def neutral_pieces(renderer: Renderer) -> list[Piece]:
    """The text, cut into pieces that no base is too small for."""
    ids = renderer.text(_TEXT.read_text("utf-8"))
    cut = [ids[start : start + _PIECE_TOKENS] for start in range(0, len(ids), _PIECE_TOKENS)]
    return [Piece(Row(part, range(len(part) - 1))) for part in cut if len(part) > 1]


def neutral_loss(engine: Engine, pieces: list[Piece]) -> float:
    """Mean negative log-likelihood of a token, in nats."""
    total = 0.0
    for piece in pieces:
        total -= engine.logprobs(pack([piece.row]), training=False).cpu().double().sum().item()
    return total / sum(piece.predicted for piece in pieces)


def forgetting(sides: Sides, renderer: Renderer) -> dict[str, Any]:
    """How well each side predicts the text: `{"tokens": ..., "base": ..., "tuned": ..., maybe "against": ...}`."""
    pieces = neutral_pieces(renderer)
    found: dict[str, Any] = {"tokens": sum(piece.predicted for piece in pieces)}
    for name, engine, context in sides:
        with context:
            found[name] = neutral_loss(engine, pieces)
    return found
