"""What a method is: a batch and a function of log-probabilities. The engine knows no method, and a method no engine.

Each file of `methods/` holds one, and reads top to bottom: how examples become rows, how rows become batches, the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from luthier.modeling.types import Generator, Packed, TrainingEngine
from luthier.training.batches import PassLimits, Rows

if TYPE_CHECKING:
    from torch import Tensor

OnPass = Callable[[float], None]
"""Told before each pass which share of the work is done, 0 to 1."""


class Engine(TrainingEngine, Generator, Protocol):
    """Trains and answers."""


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once, and its loss.

    loss: log-probabilities of the loss tokens, shape (N,) -> this batch's share, shape (), of the step's loss. The shares of
    all batches of a step add up to the step's loss, so that cutting a step into smaller batches changes nothing.
    """

    packed: Packed
    loss: Callable[[Tensor], Tensor]


class Method(Protocol):
    """The data of a run in units that are drawn together: a row, a pair, a prompt."""

    @property
    def rows(self) -> Rows:
        """All of it as rows of tokens: for what is told about the data, and to probe the adapter with."""
        ...

    def __len__(self) -> int:
        """How many units there are; an epoch visits each once."""
        ...

    def batches(self, numbers: Sequence[int], limits: PassLimits) -> Iterator[Batch]:
        """The optimiser step that learns from the units of these numbers."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What the batches since the last call told beside their loss, by name; empty for most."""
        ...

    def validation_loss(self, engine: Engine, limits: PassLimits, on_pass: OnPass) -> float:
        """One number for all units, lower is better, without a gradient."""
        ...


def mean_loss(engine: TrainingEngine, method: Method, limits: PassLimits, on_pass: OnPass) -> float:
    """The loss of all units as if they were one step: `validation_loss` of every method that draws nothing at random."""
    total, seen = 0.0, 0
    for batch in method.batches(range(len(method)), limits):
        on_pass(min(1.0, seen / len(method)))
        total += batch.loss(engine.logprobs(batch.packed, training=False).double()).item()
        seen += len(batch.packed.lengths)
    return total
