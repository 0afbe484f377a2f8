"""How a trainer is brought to its end: asked, then signalled, then killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.jobs.rules import Wish

Action = Literal["wait", "ask", "terminate", "kill"]

TERMINATE_AFTER_S = 15.0
KILL_AFTER_S = 75.0
EXIT_AFTER_S = 20.0
"""A trainer whose last word stands has this long to leave."""


@dataclass
class Asking:
    """How far one trainer was asked. `ask` and `terminate` come once each: a second SIGTERM would cut the saving short."""

    asked_at: float | None = None
    word_at: float | None = None
    terminated: bool = False

    def next(self, wish: Wish | None, *, last_word: bool, now_s: float) -> Action:
        """What to do now."""
        if wish == "cancel":
            return "kill"  # it is final, so there is nothing to save
        if last_word:
            self.word_at = now_s if self.word_at is None else self.word_at
            return "kill" if now_s - self.word_at > EXIT_AFTER_S else "wait"
        if wish is None:
            return "wait"
        if self.asked_at is None:
            self.asked_at = now_s
            return "ask"
        return self._press(now_s - self.asked_at)

    def once(self) -> bool:
        """Whether SIGTERM may be sent: the first time only."""
        first, self.terminated = not self.terminated, True
        return first

    def _press(self, waited_s: float) -> Action:
        if waited_s > KILL_AFTER_S:
            return "kill"
        if waited_s > TERMINATE_AFTER_S and self.once():
            return "terminate"
        return "wait"
