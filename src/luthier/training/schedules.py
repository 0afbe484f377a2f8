"""Learning-rate schedules as closed forms: a function of the step alone, so that a resume needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then a shape. Steps are counted from 0: `rate(k)` is used by optimiser step k + 1."""

    peak: float
    shape: Literal["cosine", "linear", "constant"]
    warmup_steps: int
    total_steps: int

    def rate(self, step: int) -> float:
        """The learning rate of the optimiser step after `step` others; the same forms as transformers' schedules.

        >>> Schedule(peak=1.0, shape="linear", warmup_steps=2, total_steps=6).rate(1)
        0.5
        >>> [Schedule(1.0, "cosine", 0, 4).rate(step) for step in (0, 2)]
        [1.0, 0.5]
        """
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.shape == "constant":
            return self.peak
        if self.shape == "linear":
            return self.peak * max(0.0, 1.0 - done)
        return self.peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
