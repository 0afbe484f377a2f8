"""No job succeeds with a broken model: the adapter is finite, changes what the model says, is the same when loaded again, and
has not unlearned where an answer ends (`endings.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.modeling.types import TrainingEngine
from luthier.training.endings import Endings
from luthier.training.failures import AttemptFailed

_PROBE_TOKENS = 256
_LEAST_CHANGE = 1e-6
_SAME = 1e-4


@dataclass(frozen=True)
class Checks:
    """`results/checks.json`."""

    finite: bool
    changes_logits: bool
    max_logit_change: float
    loads_again: bool
    same_after_reload: bool
    endings: Endings | None = None
    """None where the rows teach no end of an answer."""
    forgetting: Mapping[str, Any] | None = None
    """How well base and tuned model predict a neutral text. None where that was not asked for."""

    @property
    def sound(self) -> bool:
        """Whether it is worth asking the model something."""
        return self.finite and self.changes_logits and self.loads_again and self.same_after_reload

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def require(self) -> None:
        """Raises: AttemptFailed for what does not hold."""
        if not self.finite:
            raise AttemptFailed(
                "diverged",
                "The adapter holds weights that are not numbers.",
                "Lower `train.learning_rate`, then resume or start again.",
            )
        if not self.changes_logits:
            raise AttemptFailed(
                "no_effect",
                f"The adapter changes no answer: the largest change of a logit is {self.max_logit_change:.1e}.",
                "Raise `train.learning_rate` or the number of steps, and check that the data teach something new.",
            )
        if not (self.loads_again and self.same_after_reload):
            raise AttemptFailed(
                "crashed",
                "The saved adapter does not give the same answers when it is loaded again.",
                "Resume the job: it is saved anew.",
            )
        # A base that does not stop itself learns it late: worth a warning on the card.
        if self.endings is not None and self.endings.tuned is False and self.endings.base:
            raise AttemptFailed(
                "never_stops",
                f"The base ends its answers, the tuned model does not: none of {self.endings.asked} ended within "
                f"{self.endings.most_tokens} tokens.",
                "Lower `train.learning_rate` or `train.epochs`, and see that every answer is whole (`train.max_seq_len`).",
            )


def check_adapter(engine: TrainingEngine, probes: Sequence[Sequence[int]], save: Callable[[Path], None], folder: Path) -> Checks:
    """Save the adapter with `save` into `folder`, forget it, load it from there, and compare. `probes`: rows of token ids."""
    finite = all(bool(torch.isfinite(weight).all()) for weight in engine.parameters.values())
    rows = [list(probe[:_PROBE_TOKENS]) for probe in probes]
    tuned = [engine.logits(row) for row in rows]
    with engine.adapter_off():
        change = _largest_gap(tuned, map(engine.logits, rows))  # one at a time: those of all rows take hundreds of megabytes
    save(folder)
    loads, same = _reload(engine, folder, rows, tuned)
    return Checks(
        finite=finite,
        changes_logits=change > _LEAST_CHANGE,
        max_logit_change=change if change < float("inf") else 0.0,
        loads_again=loads,
        same_after_reload=same,
    )


def _reload(engine: TrainingEngine, folder: Path, rows: Sequence[Sequence[int]], before: Sequence[Tensor]) -> tuple[bool, bool]:
    with torch.no_grad():
        for weight in engine.parameters.values():
            weight.zero_()  # a load that does nothing would be noticed
    try:
        engine.load_adapter(folder)
    except (OSError, ValueError, KeyError, RuntimeError):
        return False, False
    return True, _largest_gap(map(engine.logits, rows), before) <= _SAME


def _largest_gap(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """Infinity where a value is not a number: no gap at all would be the wrong answer."""
    gaps = [float((left - right).abs().max()) for left, right in zip(one, other, strict=True)]
    return max((float("inf") if math.isnan(gap) else gap for gap in gaps), default=0.0)
