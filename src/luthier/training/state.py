"""Where a run stands between two optimiser steps, and its form on disk. All that the next step depends on is here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter

from luthier.jobs.directory import CheckpointRef
from luthier.training.checkpoints import used
from luthier.training.health import Best, LossWatch
from luthier.training.plan import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import AdamW

_STATE_FILE = "trainer_state.json"
_OPTIMISER_FILE = "optimizer.safetensors"
_MOST_CURVE_POINTS = 1000
_MAX_STATE_BYTES = 4 * 1024 * 1024
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_MOST = 1 << 53
_MOST_THREADS = 4096


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


_STATE = TypeAdapter(TrainState)


def write_state(folder: Path, state: TrainState) -> None:
    (folder / _STATE_FILE).write_text(json.dumps(asdict(state)), "utf-8")


def read_state(folder: Path) -> TrainState:
    """The state that `write_state` left. Raises: ValueError where it is none, or another version's."""
    path = folder / _STATE_FILE
    try:
        if path.stat().st_size > _MAX_STATE_BYTES:
            raise ValueError("the state is too large")
        data = json.loads(path.read_text("utf-8"))
        state = _STATE.validate_python(data)
        same = _shape_of(data) == _shape_of(asdict(state))
    except (OSError, RecursionError) as error:
        raise ValueError("the state is missing or not JSON") from error
    if not same or not _in_range(state):
        raise ValueError("the state has other fields than this version writes, or numbers that no run has")
    return state


def resumed_state(resumed: tuple[CheckpointRef, Path] | None) -> TrainState | None:
    """Where the checkpoint that a run goes on from stands, None for none.

    Raises: AttemptFailed for a checkpoint whose state is none, or another step's.
    """
    if resumed is None:
        return None
    ref, folder = resumed
    with used(ref):
        state = read_state(folder)
        if state.step != ref.step:
            raise ValueError(f"its state is that of step {state.step}")
    if state.best.eval_loss is not None and state.best.step == ref.step:
        # A checkpoint cannot name its own sha256: whoever reads it knows.
        state.best_checkpoint = BestCheckpoint(ref.attempt, ref.step, ref.sha256)
    return state


def _shape_of(value: Any) -> Any:
    """Names of fields, at every depth."""
    if not isinstance(value, dict):
        return None
    return {name: _shape_of(each) for name, each in cast(dict[str, Any], value).items()}


def _in_range(state: TrainState) -> bool:
    fixed, best = state.fixed, state.best_checkpoint
    counts = [state.step, state.tokens_seen, state.evaluated_step, state.best.step, state.curve_stride - 1]
    counts += [] if best is None else [best.attempt, best.step]
    return (
        all(0 <= count < _MOST for count in counts)
        and 1 <= fixed.batch_size <= _MOST
        and 1 <= fixed.tokens_per_pass <= _MOST
        and 1 <= fixed.threads <= _MOST_THREADS
        and math.isfinite(state.seconds + state.train_seconds)
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
    """Put the moments back, bit by bit. Raises: ValueError if they belong to other parameters."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / _OPTIMISER_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError("the optimiser's moments are missing or no safetensors file") from error
    state: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(parameters))}
    places = {name: index for index, name in enumerate(parameters)}
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        if name not in places or kind not in _MOMENTS or not _fits(kind, value, parameters[name]):
            raise ValueError("the optimiser's moments belong to other weights")
        state[places[name]][kind] = value.clone()
    if any(slots and slots.keys() != _MOMENTS for slots in state.values()):
        raise ValueError("some of the optimiser's moments are missing")
    groups = optimiser.state_dict()["param_groups"]
    filled = {index: slots for index, slots in state.items() if slots}
    optimiser.load_state_dict({"state": filled, "param_groups": groups})


def _fits(kind: str, value: Tensor, parameter: Parameter) -> bool:
    # The fused optimiser does not look: moments of another shape would be read beyond their end.
    return value.is_floating_point() and value.shape == (() if kind == "step" else parameter.shape)
