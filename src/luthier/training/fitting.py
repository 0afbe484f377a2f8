"""A run on this machine: which engine, how much of it at once. Decided once, and kept for every resume."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from luthier.jobs import automatic
from luthier.jobs.quantization import Quantization
from luthier.jobs.spec import RunSpec
from luthier.modeling.engines import open_engine
from luthier.modeling.fast import FastEngine
from luthier.modeling.load import Device, LoadedBase, Precision, load_base
from luthier.modeling.plain import PlainEngine
from luthier.modeling.types import LoraShape
from luthier.training import machine
from luthier.training.method import Method
from luthier.training.plan import Fixed
from luthier.training.state import TrainState


class LoadedBases:
    """The bases that this process holds, each once, whoever stands on it."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, Device, Precision, Quantization], LoadedBase] = {}

    def get(self, folder: Path, device: Device, precision: Precision, quantization: Quantization = "none") -> LoadedBase:
        """Raises: BaseUnavailable, ModelNotAllowed."""
        key = (folder.resolve(), device, precision, quantization)
        if key not in self._loaded:
            base = load_base(folder, device, precision, quantization)
            # A fresh run asks for `auto`, one that goes on for what that became: both stand on the same weights.
            self._loaded[key] = self._loaded.setdefault((key[0], device, precision_of(base), quantization), base)
        return self._loaded[key]


def precision_of(base: LoadedBase) -> Literal["bf16", "fp32"]:
    """In what its weights are held."""
    return "bf16" if base.dtype == torch.bfloat16 else "fp32"


def load_once(bases: LoadedBases, spec: RunSpec, folder: Path, state: TrainState | None) -> LoadedBase:
    """The base of a run, in the precision that it began in. Raises: AttemptFailed for a device that is not there, or that
    cannot hold it in so few bits."""
    device = machine.resolve_device(spec.train.device)
    machine.check_quantization(spec.train.quantization, device)
    precision = spec.train.precision if state is None else state.fixed.precision
    return bases.get(folder, device, precision, spec.train.quantization)


def fit(spec: RunSpec, base: LoadedBase, method: Method, state: TrainState | None) -> tuple[PlainEngine, Fixed]:
    """A fresh adapter on the base, and the choices of the run; those of `state` where it goes on from one."""
    targets = None if spec.lora.targets == "all-linear" else tuple(spec.lora.targets)
    shape = LoraShape(spec.lora.rank, spec.lora.alpha, spec.lora.dropout, targets, spec.lora.rslora)
    if state is not None:
        engine = open_engine(base, shape, spec.seed, state.fixed.engine)
        engine.recompute = state.fixed.recompute
        return engine, state.fixed
    engine = open_engine(base, shape, spec.seed)
    return engine, fixed_of(spec, engine, method)


def fixed_of(spec: RunSpec, engine: PlainEngine, method: Method) -> Fixed:
    """The choices that the machine has a say in, for a fresh run."""
    base, asked = engine.base, spec.train.batch_size
    device = machine.resolve_device(spec.train.device)
    free_bytes, longest = machine.free_bytes(device), method.longest
    fast = isinstance(engine, FastEngine)
    recompute = automatic.needs_recompute(engine.bytes_per_token(longest) * longest, free_bytes)
    engine.recompute = recompute
    return Fixed(
        batch_size=automatic.batch_size(len(method)) if asked == "auto" else asked,
        tokens_per_pass=automatic.tokens_per_pass(engine.bytes_per_token(longest), on_cpu=device == "cpu", free_bytes=free_bytes),
        threads=machine.threads_for(base.n_params),
        device=device,
        precision=precision_of(base),
        engine="fast" if fast else "plain",
        recompute=recompute,
    )
