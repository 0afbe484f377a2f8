"""One run in several processes, each with a device of its own: `torchrun --nproc-per-node N -m luthier.training <job-url>`.

Each process (a rank) holds the base and the adapter, and takes its share of the passes of every optimiser step. Gradients and
losses are added up, so all take the same step, and the step's loss is what one process would have computed. The first rank
alone writes, measures and decides; the others follow. A rank that dies takes the others with it: torchrun ends them, and what
waits for the dead one fails at once. Alone, a process is a rank of one, and all of this is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from luthier.datasets.packing import PassLimits
from luthier.jobs.directory import Failure
from luthier.jobs.processes import trains_in_parts
from luthier.jobs.spec import RunSpec
from luthier.training.failures import AttemptFailed, Fenced, Stopping, failure_of, is_out_of_memory
from luthier.training.watch import FencedStorage

if TYPE_CHECKING:
    from torch.nn import Parameter

    from luthier.modeling.types import TrainingEngine
    from luthier.training.method import Batch, Tally

_STEP_TIMEOUT = timedelta(minutes=30)
"""A rank that is this late in a step hangs."""
_FOLLOW_TIMEOUT = timedelta(days=7)
"""The first may evaluate for long; should it hang, the platform misses its word and ends all of them."""
_FINE, _NO_MEMORY, _FAILED = 0, 1, 2

Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Which of the processes this is, as torchrun tells it."""

    number: int = 0
    count: int = 1
    device: int = 0

    @property
    def leads(self) -> bool:
        return self.number == 0


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where torchrun put this process; alone where nobody did.

    >>> place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    Place(number=3, count=4, device=1)
    """
    number, count, device = (environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not (number.isdecimal() and count.isdecimal()):
        return Place()
    return Place(int(number), int(count), int(device) if device.isdecimal() else 0)


def can_share(specs: Sequence[RunSpec]) -> bool:
    """Whether several processes train this. All else is the business of the first alone."""
    return len(specs) == 1 and trains_in_parts(specs[0])


class Ranks(Protocol):
    """The processes of one run, as one of them sees them."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and decides."""
        ...

    def narrowed(self, limits: PassLimits, units_of_step: int) -> PassLimits:
        """Limits at which a step has passes for every rank."""
        ...

    def share(self, batches: Iterator[Batch], engine: TrainingEngine) -> Iterator[Batch]:
        """The batches of a step that this rank goes through."""
        ...

    def as_one(self) -> AbstractContextManager[None]:
        """A step's passes. Where one rank fails in them, all do. Raises: MemoryError where memory ran out elsewhere."""
        ...

    def add_up(self, parameters: Sequence[Parameter], sums: Sequence[float], tallies: Sequence[Tally]) -> list[float]:
        """Gradients, these numbers and what was counted, of all ranks. Returns the sums."""
        ...

    def led(self, act: Callable[[], Result]) -> Result:
        """What the first rank does alone; the others wait for what came out, and end as it ends."""
        ...


class Alone:
    """One process."""

    leads = True

    def narrowed(self, limits: PassLimits, units_of_step: int) -> PassLimits:
        del units_of_step
        return limits

    def share(self, batches: Iterator[Batch], engine: TrainingEngine) -> Iterator[Batch]:
        del engine
        return batches

    def as_one(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add_up(self, parameters: Sequence[Parameter], sums: Sequence[float], tallies: Sequence[Tally]) -> list[float]:
        del parameters, tallies
        return list(sums)

    def led(self, act: Callable[[], Result]) -> Result:
        return act()


ALONE = Alone()


class Silent(FencedStorage):
    """The job directory of a rank that does not lead: it reads, and leaves nothing."""

    def write(self, name: str, data: bytes) -> None:
        del name, data

    def place(self, folder: str, files: Mapping[str, bytes]) -> None:
        del folder, files

    def create(self, name: str, data: bytes) -> bool:
        del name, data
        return True

    def append(self, name: str, data: bytes) -> None:
        del name, data

    def put_file(self, name: str, source: Path) -> None:
        del name, source

    def delete(self, prefix: str) -> None:
        del prefix


class RankLost(AttemptFailed):
    """A process that others wait for is gone."""

    def __init__(self) -> None:
        super().__init__(
            "crashed",
            "Another process of this run ended, or no longer answers.",
            "job.log has its last lines; the last checkpoint is kept.",
        )


@contextmanager
def opened(here: Place, specs: Sequence[RunSpec]) -> Generator[Ranks]:
    """The processes that train this. Raises: RankLost where the others do not come."""
    if here.count == 1 or not can_share(specs):
        yield ALONE
        return
    together = Together(here)
    try:
        yield together
    finally:
        together.close()


@contextmanager
def _meeting() -> Generator[None]:
    """Raises: RankLost where the others do not come."""
    try:
        yield
    except RuntimeError as error:  # all that torch.distributed raises is one
        raise RankLost from error


class Together:
    """One of several processes. Gradients go through NCCL where there are GPUs, everything else through gloo."""

    def __init__(self, here: Place) -> None:
        """Meets the others. Raises: RankLost."""
        import torch
        from torch import distributed

        self._place, self.leads = here, here.leads
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(here.device)
        with _meeting():
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_STEP_TIMEOUT)
            self._following: Any = distributed.new_group(backend="gloo", timeout=_FOLLOW_TIMEOUT)

    def close(self) -> None:
        from torch import distributed

        distributed.destroy_process_group()

    def narrowed(self, limits: PassLimits, units_of_step: int) -> PassLimits:
        return narrowed(limits, units_of_step, self._place.count)

    def share(self, batches: Iterator[Batch], engine: TrainingEngine) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            if number % self._place.count == self._place.number:
                yield batch
            else:
                engine.pass_over(batch.packed)

    @contextmanager
    def as_one(self) -> Generator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: the others wait, and must hear of it
            self._worst(_NO_MEMORY if is_out_of_memory(error) else _FAILED)
            raise
        worst = self._worst(_FINE)
        if worst == _NO_MEMORY:
            raise MemoryError("out of memory in another rank")
        if worst == _FAILED:
            raise RankLost

    def add_up(self, parameters: Sequence[Parameter], sums: Sequence[float], tallies: Sequence[Tally]) -> list[float]:
        import torch
        from torch import distributed

        # A method's own head may lie elsewhere than the adapter.
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        flat = torch.cat([grad.flatten().to(grads[0].device) for grad in grads])
        totals = torch.tensor(list(sums), dtype=torch.float64)
        told: list[Any] = [None] * self._place.count
        with _meeting():
            distributed.all_reduce(flat)
            distributed.all_reduce(totals)
            if tallies:
                distributed.all_gather_object(told, [tally.sums for tally in tallies])
        for each, grad in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            each.grad = grad.view_as(each).to(each.device)
        for number, tally in enumerate(tallies):
            tally.sums = {}
            for of_rank in told:
                tally.merge(of_rank[number])
        return totals.tolist()

    def led(self, act: Callable[[], Result]) -> Result:
        if not self.leads:
            return cast(Result, self._follow())
        try:
            made = act()
        except Exception as error:  # whatever it is: the others wait, and must hear of it
            self._tell(_ended(error))
            raise
        self._tell(("made", made))
        return made

    def _tell(self, word: tuple[str, Any]) -> None:
        from torch import distributed

        with _meeting():
            distributed.broadcast_object_list([word], src=0, group=self._following)

    def _follow(self) -> Any:
        from torch import distributed

        told: list[Any] = [None]
        with _meeting():
            distributed.broadcast_object_list(told, src=0, group=self._following)
        kind, what = told[0]
        if kind == "stopping":
            raise Stopping(what)
        if kind == "fenced":
            raise Fenced
        if kind == "failed":
            failure = Failure.model_validate_json(what)
            raise AttemptFailed(failure.code, failure.message, failure.hint)
        return what

    def _worst(self, code: int) -> int:
        import torch
        from torch import distributed

        worst = torch.tensor([code])
        with _meeting():
            distributed.all_reduce(worst, op=distributed.ReduceOp.MAX)
        return int(worst.item())


def _ended(error: Exception) -> tuple[str, Any]:
    """How the first rank's act ended, for the others."""
    if isinstance(error, Stopping):
        return "stopping", error.wish
    if isinstance(error, Fenced):
        return "fenced", None
    return "failed", failure_of(error).model_dump_json()


def narrowed(limits: PassLimits, units_of_step: int, ranks: int) -> PassLimits:
    """Smaller passes, so that their number is a multiple of the ranks: nobody waits for the others.

    >>> [narrowed(PassLimits(rows, 4096), 16, 2).rows for rows in (16, 8, 6, 1)]
    [8, 8, 4, 1]
    """
    rounds = -(-units_of_step // (ranks * limits.rows))
    return PassLimits(max(1, -(-units_of_step // (ranks * rounds))), limits.tokens)
