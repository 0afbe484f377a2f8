"""Questions that come while another one is asked wait for it, and then go together: one request for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from luthier.errors import FieldInvalid, TooMany
from luthier.seams import Classification, Classified, ServedClassifier

_MOST_TOGETHER = 64
"""A batch of these takes a small network some ten milliseconds."""
_MOST_WAITING = 1024

Send = Callable[[ServedClassifier, Sequence[Classification]], Sequence[Classified]]


@dataclass(eq=False)
class _Waiting:
    model: ServedClassifier
    question: Classification
    answer: Future[Classified] = field(default_factory=Future[Classified])
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when it was answered, or when it is the one that asks for itself and for those behind it."""


class Gathering:
    """Any thread may ask. `send` is called by one of them at a time, with questions to one classifier."""

    def __init__(self, send: Send, *, most_together: int = _MOST_TOGETHER, most_waiting: int = _MOST_WAITING) -> None:
        self._most_together, self._most_waiting = most_together, most_waiting
        self._send = send
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._asking = False

    def ask(self, model: ServedClassifier, question: Classification) -> Classified:
        """The answer to this question. Raises: TooMany; what `send` raises."""
        mine = _Waiting(model, question)
        with self._lock:
            if len(self._waiting) >= self._most_waiting:
                raise TooMany(f"{self._most_waiting} questions wait for this engine already.", retry_after_s=2)
            self._waiting.append(mine)
            leads, self._asking = not self._asking, True
        if not leads:
            mine.turn.wait()
        if not mine.answer.done():
            self._ask_together()
        return mine.answer.result()

    def _ask_together(self) -> None:
        """Ask for whoever waits longest, and for all others who ask the same classifier."""
        with self._lock:
            first = self._waiting[0]
            batch = [each for each in self._waiting if each.model == first.model][: self._most_together]
            taken = set(map(id, batch))
            self._waiting = [each for each in self._waiting if id(each) not in taken]
        try:
            self._answer(batch)
        finally:
            for each in batch:
                each.turn.set()
            with self._lock:
                self._asking = bool(self._waiting)
                following = self._waiting[0] if self._waiting else None
            if following is not None:
                following.turn.set()

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            found = self._send(batch[0].model, [each.question for each in batch])
        except FieldInvalid as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for each in batch:  # one of them is wrong: the others are not to hear of it
                self._answer([each])
        except BaseException as error:  # noqa: BLE001  # handed to everybody who waits for it
            for each in batch:
                each.answer.set_exception(error)
        else:
            for each, answer in zip(batch, found, strict=True):
                each.answer.set_result(answer)
