"""Several attempts in one process over one frozen base. Each stands at a pass that it wants; all those passes go together.

An attempt is a generator that yields `Pass`es and returns an exit status. What happens to one (an error, a stop, the end)
happens inside its own generator, and the others go on. One attempt is the ordinary case.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from luthier.modeling import gang
from luthier.modeling.types import Packed, TrainingEngine

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pass:
    """One way through the model and back."""

    engine: TrainingEngine
    packed: Packed
    slope: Callable[[Tensor], Tensor]
    """What the pack wants (log-probabilities, hidden states) -> the gradient of the loss with respect to it, of its shape."""
    most_tokens: int
    """How many tokens may go through the model at once, those of others included."""


Result = TypeVar("Result")
Work: TypeAlias = Generator[Pass, None, Result]
"""Work that asks for passes on its way to a result."""


class Repeat(Exception):
    """Thrown at a `yield`: this optimiser step has to be begun again, from its first pass."""


def train_together(attempts: Sequence[Work[Result]]) -> list[Result]:
    """Run all attempts to their end. Returns their results, in order."""
    return _Gang(attempts).run()


class _Gang(Generic[Result]):
    def __init__(self, attempts: Sequence[Work[Result]]) -> None:
        self._attempts = attempts
        self._results: dict[int, Result] = {}
        self._waiting: dict[int, Pass] = {}
        self._apart = False

    def run(self) -> list[Result]:
        for number in range(len(self._attempts)):
            self._advance(number)
        while self._waiting:
            for group in list(self._groups()):
                self._pass(group)
        return [self._results[number] for number in range(len(self._attempts))]

    def _groups(self) -> Iterator[list[int]]:
        """Who goes together: as many as fit into the tokens that the most modest of them allows."""
        group: list[int] = []
        for number in list(self._waiting):
            tokens = sum(len(self._waiting[each].packed.ids_T) for each in (*group, number))
            if group and (self._apart or tokens > min(self._waiting[each].most_tokens for each in (*group, number))):
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _pass(self, group: Sequence[int]) -> None:
        """There and back for these attempts, then each goes on to its next wish."""
        passes = [self._waiting[number] for number in group]
        try:
            failed = self._there_and_back(passes)
        except Exception as error:  # noqa: BLE001  # what one member's rows or memory do to a pass ends that member alone
            if len(group) == 1:
                self._advance(group[0], error)
                return
            # Whose fault it was (or that memory held each, but not all) shows when each goes alone.
            self._apart = True
            self._advance_all(group, lambda _: Repeat())
            return
        self._advance_all(group, failed.get)

    def _there_and_back(self, passes: Sequence[Pass]) -> dict[int, Exception]:
        """Returns the errors of those whose loss failed, by place. Their gradient is zero; the others never notice."""
        seats = [(each.engine, each.packed) for each in passes]
        failed: dict[int, Exception] = {}
        grads: list[Tensor] = []
        for place, (each, given) in enumerate(zip(passes, gang.forward(seats, training=True), strict=True)):
            try:
                grads.append(each.slope(given))
            except Exception as error:  # noqa: BLE001  # one member's surprise goes to that member
                failed[place] = error
                grads.append(given.new_zeros(given.shape))
        gang.backward(seats, grads)
        return failed

    def _advance_all(self, group: Sequence[int], error_of: Callable[[int], Exception | None]) -> None:
        for place, number in enumerate(group):
            self._advance(number, error_of(place))

    def _advance(self, number: int, error: Exception | None = None) -> None:
        """Let one attempt go on to the next pass that it wants, or to its end."""
        attempt = self._attempts[number]
        try:
            self._waiting[number] = next(attempt) if error is None else attempt.throw(error)
        except StopIteration as end:
            self._waiting.pop(number, None)
            self._results[number] = end.value
