"""Whether a run still learns: divergence, and when more steps stop paying."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.training.failures import AttemptFailed

_START_STEPS = 10
_PATIENCE_STEPS = 20
_SMOOTHING = 0.9


@dataclass
class LossWatch:
    """Ends a run whose loss has left the rails, instead of burning the rest of its time.

    The rule: a loss or gradient that is not a number ends it at once. Else the smoothed loss (0.9 of the old, 0.1 of the
    new) must lie above the limit for 20 steps in a row. The limit is where the run started (median of its first 10
    losses) plus twice that, at least 1 and at most 3 nats; a start that exploded itself is capped by 15 nats, more than
    guessing at random costs with any vocabulary.
    """

    first: list[float] = field(default_factory=list[float])
    smoothed: float | None = None
    above: int = 0

    def see(self, step: int, loss: float, grad_norm: float, learning_rate: float, *, rising_is_bad: bool = True) -> None:
        """Judge one step. Raises: AttemptFailed (`diverged`)."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            what = "The loss" if not math.isfinite(loss) else "The gradient"
            raise _diverged(f"{what} was no longer a number at step {step}; {self._story()}.", learning_rate)
        if len(self.first) < _START_STEPS:
            self.first.append(loss)
        self.smoothed = loss if self.smoothed is None else _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss
        self.above = self.above + 1 if rising_is_bad and self.smoothed > self.limit else 0
        if self.above >= _PATIENCE_STEPS:
            story = f"The smoothed loss stood above {self.limit:.2f} for {self.above} steps, up to step {step}"
            raise _diverged(f"{story}; {self._story()}.", learning_rate)

    @property
    def limit(self) -> float:
        """The loss above which a run counts as lost, in nats.

        >>> LossWatch(first=[2.0]).limit
        5.0
        """
        start = statistics.median(self.first)
        return min(start + min(3.0, max(1.0, 2 * start)), max(15.0, 1.5 * self.first[0]))

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def _story(self) -> str:
        if not self.first or self.smoothed is None:
            return "it was the first step"
        return f"it started at {self.first[0]:.3f} and the smoothed loss was {self.smoothed:.3f}"


@dataclass
class Best:
    """The lowest validation loss so far, and how many evaluations ago that was."""

    eval_loss: float | None = None
    step: int = 0
    since: int = 0

    def see(self, step: int, eval_loss: float) -> bool:
        """Record an evaluation; whether it is the best so far."""
        if self.eval_loss is None or eval_loss < self.eval_loss:
            self.eval_loss, self.step, self.since = eval_loss, step, 0
            return True
        self.since += 1
        return False


def _diverged(message: str, learning_rate: float) -> AttemptFailed:
    hint = f"Lower `train.learning_rate` (it was {learning_rate:.1e} at this step; try a fifth), or raise `train.warmup_steps`."
    return AttemptFailed("diverged", message, hint)
