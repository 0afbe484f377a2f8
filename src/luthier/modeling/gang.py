"""Several adapters in one pass over their common base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.modeling.types import Packed, TrainingEngine

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.modeling.fast import FastEngine

Seat = tuple[TrainingEngine, Packed]
"""An adapter, and the rows that it learns from in this pass. An engine takes one seat a pass."""


def forward(seats: Sequence[Seat], *, training: bool) -> list[Tensor]:
    """What each seat wants of its engine; in one pass where all are fast and stand on the same base."""
    fast = _all_fast([engine for engine, _ in seats])
    if fast is None:
        return [_alone(engine, packed, training=training) for engine, packed in seats]
    from luthier.modeling.fast import forward_together

    return forward_together([(engine, packed) for engine, (_, packed) in zip(fast, seats, strict=True)], training=training)


def backward(seats: Sequence[Seat], grads: Sequence[Tensor]) -> None:
    """What `TrainingEngine.backward` does for each seat. `grads`: shaped as what `forward` gave, in the order of the seats."""
    fast = _all_fast([engine for engine, _ in seats])
    if fast is None:
        for (engine, _), grad in zip(seats, grads, strict=True):
            engine.backward(grad)
        return
    from luthier.modeling.fast import backward_together

    backward_together(fast, grads)


def _alone(engine: TrainingEngine, packed: Packed, *, training: bool) -> Tensor:
    there = engine.hidden if packed.wants == "hidden" else engine.logprobs
    return there(packed, training=training)


def _all_fast(engines: Sequence[TrainingEngine]) -> list[FastEngine] | None:
    from luthier.modeling.fast import FastEngine

    fast = [engine for engine in engines if isinstance(engine, FastEngine)]
    same = {id(engine.base.model) for engine in fast}
    return fast if len(fast) == len(engines) and len(same) == 1 else None
