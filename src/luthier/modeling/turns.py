"""The one thread that computes: requests take turns, one token each, so a long answer holds up no short one."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import torch

from luthier.errors import EngineUnavailable, FieldInvalid, LuthierError, TooMany
from luthier.modeling.generate import Token, stream
from luthier.modeling.load import LoadedBase
from luthier.modeling.lora import Adapter
from luthier.modeling.models import Models
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
    left: threading.Event = field(default_factory=threading.Event)
    """Set by whoever asked, when the answer is no longer wanted."""


@dataclass(frozen=True)
class Do:
    """Something else that only the computing thread may do, such as loading a model."""

    work: Callable[[Models], None]
    tell: Callable[[Event], None]


@dataclass
class _Turn:
    ask: Ask
    base: LoadedBase
    adapter: Adapter | None
    tokens: Generator[Token]


class Turns:
    """Runs up to `active` answers at a time; up to `waiting` more tasks wait."""

    def __init__(self, models: Models, *, active: int = 8, waiting: int = 32) -> None:
        self._models = models
        self._active = active
        self._waiting: queue.Queue[Ask | Do | None] = queue.Queue(waiting)
        self._running: deque[_Turn] = deque()
        self._threads = torch.get_num_threads()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="computing", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Tasks that run or wait."""
        return len(self._running) + self._waiting.qsize()

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

    def _run(self) -> None:
        while not self._closing:
            self._admit()
            if self._running:
                # It keeps its place while it is computed: `busy` is read by another thread.
                if self._goes_on(self._running[0]):
                    self._running.rotate(-1)
                else:
                    self._running.popleft()

    def _admit(self) -> None:
        """Begin what waits, as far as there are places; sleep only when there is nothing to compute."""
        while len(self._running) < self._active and not self._closing:
            try:
                task = self._waiting.get(block=not self._running)
            except queue.Empty:
                return
            if isinstance(task, Do):
                _told(task.tell, lambda task=task: task.work(self._models), done=True)
            elif task is not None and not task.left.is_set():
                _told(task.tell, lambda task=task: self._begin(task))

    def _begin(self, ask: Ask) -> None:
        base, adapter = self._models.get(ask.model)
        self._running.append(_Turn(ask, base, adapter, stream(base, ask.prompt, ask.sampling)))

    def _goes_on(self, turn: _Turn) -> bool:
        if turn.ask.left.is_set():
            turn.tokens.close()
            return False
        token: Token | None = None

        def step() -> None:
            nonlocal token
            self._share_cores(turn.base)
            if turn.base.linears.adapter is not turn.adapter:
                turn.base.linears.carry(turn.adapter)
            token = next(turn.tokens)

        if _told(turn.ask.tell, step) and token is not None:
            turn.ask.tell(token)
            return token.finish_reason is None
        return False

    def _share_cores(self, base: LoadedBase) -> None:
        """As many threads as this base is worth."""
        small = base.n_params < _SMALL_PARAMETERS
        wanted = min(_SMALL_THREADS, self._threads) if small else self._threads
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _told(tell: Callable[[Event], None], work: Callable[[], None], *, done: bool = False) -> bool:
    """Do the work, and tell what went wrong with it. True if nothing did."""
    try:
        work()
    except LuthierError as error:
        tell(error)
    except ValueError as error:
        # Only a prompt can be wrong here; the message says how, and holds numbers only.
        tell(FieldInvalid(f"The engine cannot answer this: {error}.", param="prompt"))
    except Exception as error:  # noqa: BLE001  # the thread's edge: one request out of memory must not end all others
        traceback.print_exc(file=sys.stderr)
        tell(EngineUnavailable(f"The engine failed ({type(error).__name__}).", hint="Its log in the data folder says where."))
    else:
        if done:
            tell(None)
        return True
    return False
