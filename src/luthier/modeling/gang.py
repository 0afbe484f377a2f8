"""Several adapters in one pass over their common base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.modeling.types import Packed, TrainingEngine

if TYPE_CHECKING:
    from torch import Tensor

Seat = tuple[TrainingEngine, Packed]
"""An adapter, and the rows that it learns from in this pass. An engine takes one seat a pass."""


def logprobs(seats: Sequence[Seat], *, training: bool) -> list[Tensor]:
    """What `TrainingEngine.logprobs` gives for each seat."""
    return [engine.logprobs(packed, training=training) for engine, packed in seats]


def backward(seats: Sequence[Seat], grads: Sequence[Tensor]) -> None:
    """What `TrainingEngine.backward` does for each seat. `grads`: shape (N,) each, in the order of the seats."""
    for (engine, _), grad_N in zip(seats, grads, strict=True):
        engine.backward(grad_N)
