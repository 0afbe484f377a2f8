"""How a trainer is brought to its end: asked, then signalled, then killed. A member of a gang is asked, then left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.jobs.rules import Wish

Action = Literal["wait", "ask", "terminate", "kill", "release"]

TERMINATE_AFTER_S = 15.0
KILL_AFTER_S = 75.0
EXIT_AFTER_S = 20.0
"""A trainer whose last word stands has this long to leave."""
RELEASE_AFTER_S = 300.0
"""A member of a gang cannot be killed. It hears a wish between two steps, and another member may be evaluating for minutes."""


@dataclass
class Asking:
    """How far one job was asked to end, in a process that may train others too."""

    asked_at: float | None = None
    word_at: float | None = None

    def next(self, wish: Wish | None, *, last_word: bool, alone: bool, now_s: float) -> Action:
        """What to do now. `alone`: nobody else needs the process."""
        if wish == "cancel" and alone:
            return "kill"  # it is final, so there is nothing to save
        if last_word:
            self.word_at = now_s if self.word_at is None else self.word_at
            return "kill" if alone and now_s - self.word_at > EXIT_AFTER_S else "wait"
        if wish is None:
            return "wait"
        if self.asked_at is None:
            self.asked_at = now_s
            return "ask"
        waited_s = now_s - self.asked_at
        return _press(waited_s) if alone else "release" if waited_s > RELEASE_AFTER_S else "wait"


def _press(waited_s: float) -> Action:
    if waited_s > KILL_AFTER_S:
        return "kill"
    return "terminate" if waited_s > TERMINATE_AFTER_S else "wait"
