"""Where a run stands between two optimiser steps, and its form on disk. All that the next step depends on is here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.training.health import Best, LossWatch
from luthier.training.plan import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import AdamW

_STATE_FILE = "trainer_state.json"
_OPTIMISER_FILE = "optimizer.safetensors"
_MOST_CURVE_POINTS = 1000


@dataclass
class BestCheckpoint:
    """Where the adapter with the lowest validation loss lies."""

    attempt: int
    step: int
    sha256: str


@dataclass
class TrainState:
    """Counters and memories of a run. Python floats survive JSON bit by bit."""

    fixed: Fixed
    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    """Of all attempts so far, up to the last save."""
    train_seconds: float = 0.0
    """Of the optimiser steps alone."""
    evaluated_step: int = 0
    finished: bool = False
    """Nothing is left to train: all steps are done, or the run was ended early for a good reason."""
    loss: float | None = None
    eval_loss: float | None = None
    loss_watch: LossWatch = field(default_factory=LossWatch)
    best: Best = field(default_factory=Best)
    best_checkpoint: BestCheckpoint | None = None
    curve: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    curve_stride: int = 1

    def see_loss(self, loss: float) -> None:
        """Record the loss of step `self.step`; the curve keeps every 1st, 2nd, 4th, ... step as it grows."""
        self.loss = loss
        if self.step % self.curve_stride == 0:
            self.curve.append((self.step, loss))
        if len(self.curve) > _MOST_CURVE_POINTS:
            self.curve_stride *= 2
            self.curve = [point for point in self.curve if point[0] % self.curve_stride == 0]


def write_state(folder: Path, state: TrainState) -> None:
    (folder / _STATE_FILE).write_text(json.dumps(asdict(state)), "utf-8")


def read_state(folder: Path) -> TrainState:
    """The state that `write_state` left. Raises: KeyError, TypeError for another version's."""
    data: dict[str, Any] = json.loads((folder / _STATE_FILE).read_text("utf-8"))
    best_checkpoint = data.pop("best_checkpoint")
    return TrainState(
        fixed=Fixed(**data.pop("fixed")),
        loss_watch=LossWatch(**data.pop("loss_watch")),
        best=Best(**data.pop("best")),
        best_checkpoint=BestCheckpoint(**best_checkpoint) if best_checkpoint else None,
        curve=[(step, loss) for step, loss in data.pop("curve")],
        **data,
    )


def write_optimiser(folder: Path, optimiser: AdamW, parameters: Mapping[str, Parameter]) -> None:
    """AdamW's moments and counters by parameter name, as safetensors."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{key}:{name}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / _OPTIMISER_FILE)


def read_optimiser(folder: Path, optimiser: AdamW, parameters: Mapping[str, Parameter]) -> None:
    """Put the moments back, bit by bit. Raises: KeyError if they belong to other parameters."""
    from safetensors.torch import load_file

    tensors = load_file(folder / _OPTIMISER_FILE)
    state: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(parameters))}
    places = {name: index for index, name in enumerate(parameters)}
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        state[places[name]][kind] = value.clone()
    groups = optimiser.state_dict()["param_groups"]
    filled = {index: slots for index, slots in state.items() if slots}
    optimiser.load_state_dict({"state": filled, "param_groups": groups})
