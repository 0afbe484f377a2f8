"""What a method is: a batch and a function of log-probabilities. The engine knows no method, and a method no engine.

Each file of `methods/` holds one, and reads top to bottom: how rows become batches, and the loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from luthier.datasets.packing import PassLimits
from luthier.modeling.types import Generator, Packed, TrainingEngine
from luthier.training.batches import Row, Rows, pack

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from luthier.training.methods.judges import Judge

OnPass = Callable[[float], None]
"""Told before each pass which share of the work is done, 0 to 1."""


class Engine(TrainingEngine, Generator, Protocol):
    """Trains and answers."""


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once, and its loss.

    loss: what the pack wants, mostly log-probabilities of the loss tokens, shape (N,) -> this batch's share, shape (), of the
    step's loss. The shares of all batches of a step add up to the step's loss, so that cutting a step into smaller batches
    changes nothing.
    """

    packed: Packed
    loss: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """An optimiser step: the units that it learns from, how many steps were before, and the seed of all that it draws."""

    numbers: Sequence[int]
    before: int = 0
    seed: int = 0


class Method(ABC):
    """The data of a run in units that are drawn together: a row, a pair, a prompt."""

    rising_loss_is_bad: ClassVar[bool] = True
    """Whether a loss that keeps rising says that training has come apart."""
    one_right_answer: ClassVar[bool] = False
    """Whether the data hold the answer that is wanted: the loss is its negative log-likelihood a token."""

    rows: Rows
    """All of it as rows of tokens: for what is told about the data, and to probe the adapter with."""

    @property
    def head(self) -> Parameter | None:
        """A layer that learns beside the adapter, on the CPU, and is saved with it. None for most."""
        return None

    @property
    def longest(self) -> int:
        """Tokens of the longest row that ever goes through the model."""
        return self.rows.longest

    @abstractmethod
    def __len__(self) -> int:
        """How many units there are; an epoch visits each once."""

    def prepare(self, engine: Engine, numbers: Sequence[int], limits: PassLimits, on_pass: OnPass) -> None:
        """What is measured once, before the first step, for the units that the run will visit. Nothing for most.

        A resume does it again, in the same way: it must not depend on what has been learned.
        """
        del engine, numbers, limits, on_pass

    def measured_on(self, validation: Method | None) -> Sequence[str]:
        """Told once, before the first step, on which rows it is measured: they may need what it learns.

        Returns what is odd about the rows. Raises: AttemptFailed (`bad_data`) where nothing can be learned of them.
        """
        del validation
        return ()

    def seat(self, judges: Mapping[str, Judge]) -> None:
        """Take the bases that judge beside the one that is trained. Nothing for most."""
        del judges

    def packed(self, rows: Sequence[Row]) -> Packed:
        """These rows as they go through the model."""
        return pack(rows)

    def unit(self, number: int) -> list[Row]:
        """The rows of a unit as they go through the model, at their longest."""
        rows = len(self.rows) // len(self)
        return [self.rows[rows * number + place] for place in range(rows)]

    def soon(self, numbers: Sequence[int]) -> None:
        """These units are those of the next step. It is told while this one runs."""
        rows = len(self.rows) // len(self)
        self.rows.soon(rows * number + place for number in numbers for place in range(rows))

    @abstractmethod
    def batches(self, engine: Engine, step: Step, limits: PassLimits) -> Iterator[Batch]:
        """The optimiser step on these units. `engine` is for what the batch itself needs of the model, without a gradient."""

    def metrics(self) -> Mapping[str, float]:
        """What the last step, or validation, told beside its loss, by name; empty for most."""
        return {}

    def tallies(self) -> Sequence[Tally]:
        """What `metrics` are the means of, to be added up where several processes make a step."""
        return ()

    def validation_loss(self, engine: Engine, limits: PassLimits, on_pass: OnPass) -> float:
        """One number for all units, lower is better, without a gradient."""
        return mean_loss(engine, self, limits, on_pass)

    def save(self, folder: Path) -> None:
        """Write into a checkpoint what the next step depends on, beside adapter, optimiser and step. Nothing for most."""
        del folder

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        del folder


@dataclass
class Tally:
    """Means of what the batches of one step told."""

    sums: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])

    def add(self, name: str, values: Tensor) -> None:
        """Count these, shape (n,)."""
        self.count(name, values.detach().flatten().tolist())

    def count(self, name: str, values: Sequence[float]) -> None:
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = (math.fsum([total, *values]), count + len(values))

    def merge(self, sums: Mapping[str, tuple[float, int]]) -> None:
        """Count what another tally did."""
        for name, (total, count) in sums.items():
            before, counted = self.sums.get(name, (0.0, 0))
            self.sums[name] = (before + total, counted + count)

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.sums.items() if count}


def mean_loss(engine: Engine, method: Method, limits: PassLimits, on_pass: OnPass) -> float:
    """The loss of all units as if they were one step: `validation_loss` of every method that draws nothing at random."""
    numbers = range(len(method))
    method.prepare(engine, numbers, limits, on_pass)
    total, seen, rows = 0.0, 0, max(1, len(method.rows))
    for batch in method.batches(engine, Step(numbers), limits):
        on_pass(min(1.0, seen / rows))
        # Not every device knows fp64; the CPU does.
        total += batch.loss(engine.logprobs(batch.packed, training=False).cpu().double()).item()
        seen += len(batch.packed.lengths)
    return total
