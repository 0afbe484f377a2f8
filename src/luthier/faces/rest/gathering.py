"""Questions that come while others are asked wait for those, and then go together: one request for all of them.

It is done on the event loop, where they come: a thread for each of them would cost more than its answer does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from luthier.errors import FieldInvalid
from luthier.seams import Classification, Classified, ServedClassifier

_MOST_TOGETHER = 64
"""A batch of these takes a small network some twenty milliseconds."""

Ask = Callable[[ServedClassifier, Sequence[Classification]], Sequence[Classified]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    question: Classification
    answer: asyncio.Future[Classified]


class Gathering:
    """For one event loop. `ask` is called in a thread of `threads`: by one at a time for each classifier."""

    def __init__(self, ask: Ask, threads: Executor, *, most_together: int = _MOST_TOGETHER) -> None:
        self._ask = ask
        self._threads = threads
        self._most_together = most_together
        self._lines: dict[ServedClassifier, deque[_Waiting]] = {}

    async def answer(self, model: ServedClassifier, question: Classification) -> Classified:
        """The answer to this question. Raises: what `ask` raises."""
        mine = _Waiting(question, asyncio.get_running_loop().create_future())
        line = self._lines.get(model)
        if line is not None:
            line.append(mine)
        else:
            self._lines[model] = deque([mine])
            self._ask_next(model)
        return await mine.answer

    def _ask_next(self, model: ServedClassifier) -> None:
        """Ask for whoever waits longest, as many as may go together; somebody who has left is not asked for."""
        line = self._lines[model]
        batch: list[_Waiting] = []
        while line and len(batch) < self._most_together:
            first = line.popleft()
            if not first.answer.done():
                batch.append(first)
        if not batch:
            del self._lines[model]
            return
        questions = [each.question for each in batch]
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._outcomes, model, questions)
        asked.add_done_callback(partial(self._tell, model, batch))

    def _outcomes(self, model: ServedClassifier, questions: Sequence[Classification]) -> list[Classified | FieldInvalid]:
        """An answer or a refusal for each; what is no one's fault is raised."""
        try:
            return [answer for _, answer in zip(questions, self._ask(model, questions), strict=True)]
        except FieldInvalid as error:
            if len(questions) == 1:
                return [error]
            # One of them is wrong: the others are not to hear of it.
            return [outcome for each in questions for outcome in self._outcomes(model, [each])]

    def _tell(
        self, model: ServedClassifier, batch: Sequence[_Waiting], asked: asyncio.Future[list[Classified | FieldInvalid]]
    ) -> None:
        error = asked.exception()
        outcomes = asked.result() if error is None else [error] * len(batch)
        for each, outcome in zip(batch, outcomes, strict=True):
            if each.answer.done():
                continue
            if isinstance(outcome, BaseException):
                each.answer.set_exception(outcome)
            else:
                each.answer.set_result(outcome)
        self._ask_next(model)
