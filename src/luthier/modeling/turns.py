"""The one thread that computes: all answers on one base go on together, a token each, so a long one holds up no short one."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from luthier.errors import EngineUnavailable, FieldInvalid, LuthierError, TooMany
from luthier.modeling.batching import Batch, Member
from luthier.modeling.generate import Row, Token
from luthier.modeling.grammar import JsonGuide
from luthier.modeling.models import Models
from luthier.modeling.passes import Answering
from luthier.modeling.types import Sampling

_SMALL_PARAMETERS = 20_000_000
_SMALL_THREADS = 2
"""Measured with 2.6M weights on 4 busy cores: 412 tokens/s with 2 threads, 130 with 4."""

Event = Token | LuthierError | None
"""A token; or what went wrong, and nothing after it; or None: a task without tokens is done."""


@dataclass(frozen=True)
class Ask:
    """A prompt for a loaded model. `tell` is called from the computing thread."""

    model: str
    prompt: tuple[int, ...]
    sampling: Sampling
    tell: Callable[[Event], None]
    json_schema: str | None = None
    """The answer is JSON of this schema."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set by whoever asked, when the answer is no longer wanted."""


@dataclass(frozen=True)
class Do:
    """Something else that only the computing thread may do, such as loading a model."""

    work: Callable[[Models], None]
    tell: Callable[[Event], None]


class Turns:
    """Runs up to `active` answers at a time; up to `waiting` more tasks wait."""

    def __init__(self, models: Models, *, active: int = 16, waiting: int = 32) -> None:
        self._models = models
        self._active = active
        self._waiting: queue.Queue[Ask | Do | None] = queue.Queue(waiting)
        self._batches: dict[int, Batch[Ask]] = {}
        """By the identity of their base."""
        self._next: Ask | None = None
        """There was a place for it, and no room: it begins when there is, and all others after it."""
        self._threads = torch.get_num_threads()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="computing", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Tasks that run or wait."""
        return self._running + (self._next is not None) + self._waiting.qsize()

    def submit(self, task: Ask | Do) -> None:
        """Take a place. Returns at once. Raises: TooMany when all are taken."""
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            raise TooMany(f"{self._waiting.maxsize} requests wait for this engine already.", retry_after_s=2) from None

    def close(self, timeout_s: float) -> bool:
        """Stop after the token at hand. True if the thread has ended by then."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # when it is full the thread is not asleep, and looks by itself
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def _running(self) -> int:
        return sum(len(batch) for batch in list(self._batches.values()))

    def _run(self) -> None:
        while not self._closing:
            self._admit()
            for key, batch in list(self._batches.items()):
                self._step(batch)
                if not len(batch):
                    del self._batches[key]

    def _admit(self) -> None:
        """Begin what waits, as far as there are places; sleep only when there is nothing to compute."""
        while self._running < self._active and not self._closing:
            task, self._next = self._next, None
            try:
                task = task or self._waiting.get(block=not self._batches)
            except queue.Empty:
                return
            if isinstance(task, Do):
                _told([task.tell], lambda task=task: task.work(self._models), done=True)
            elif task is not None and not task.left.is_set():
                _told([task.tell], lambda task=task: self._begin(task))
            if self._next is not None:
                return

    def _begin(self, ask: Ask) -> None:
        base, adapter = self._models.get(ask.model)
        row = Row(0, ask.prompt, ask.sampling, base)
        if ask.json_schema is not None:
            tokenizer = self._models.folder_of(ask.model) / "tokenizer.json"
            row.guide = JsonGuide(tokenizer, ask.sampling.stop_ids, ask.json_schema, base.vocab)
        if row.left < 1:
            ask.tell(Token(None, "length"))
            return
        if id(base) not in self._batches:
            self._batches[id(base)] = Batch(base, self._models.passes(base))
        if not self._batches[id(base)].add(Member(ask, row, adapter)):
            self._next = ask

    def _step(self, batch: Batch[Ask]) -> None:
        """A piece of one prompt, and a token for all whose prompts were read."""
        for ask in batch.keys:
            if ask.left.is_set():
                batch.drop(ask)
        self._share_cores(batch.base)
        for work, keys in ((batch.read, batch.reads_for), (batch.decode, batch.decodes_for)):
            if keys and not _told([ask.tell for ask in keys], lambda work=work: _tell(work())):
                for ask in keys:
                    batch.drop(ask)

    def _share_cores(self, base: Answering) -> None:
        """As many threads as this base is worth."""
        small = base.n_params < _SMALL_PARAMETERS
        wanted = min(_SMALL_THREADS, self._threads) if small else self._threads
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _tell(tokens: list[tuple[Ask, Token]]) -> None:
    for ask, token in tokens:
        ask.tell(token)


def _told(tell: Sequence[Callable[[Event], None]], work: Callable[[], None], *, done: bool = False) -> bool:
    """Do the work, and tell all whom it concerns what went wrong with it. True if nothing did."""
    wrong: LuthierError | None = None
    try:
        work()
    except LuthierError as error:
        wrong = error
    except ValueError as error:
        # Only a prompt can be wrong here; the message says how, and holds numbers only.
        wrong = FieldInvalid(f"The engine cannot answer this: {error}.", param="prompt")
    except Exception as error:  # noqa: BLE001  # the thread's edge: requests out of memory must not end all others
        traceback.print_exc(file=sys.stderr)
        wrong = EngineUnavailable(f"The engine failed ({type(error).__name__}).", hint="Its log in the data folder says where.")
    for each in tell if wrong is not None or done else ():
        each(wrong)
    return wrong is None
