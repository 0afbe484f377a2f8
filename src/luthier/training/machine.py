"""The machine under a run: device, precision, threads, memory."""

from __future__ import annotations

import resource
import sys
from typing import Any, Literal, cast

import psutil
import torch

from luthier.jobs import quantization
from luthier.jobs.quantization import Quantization
from luthier.training.failures import AttemptFailed
from luthier.training.plan import Device

_SMALL_PARAMETERS = 20_000_000


def resolve_device(asked: Literal["auto", "cpu", "cuda", "mps"]) -> Device:
    """Where to train: the best there is, or what was asked for. Raises: AttemptFailed (`device`) if that is not there."""
    there: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if asked == "auto":
        return next(device for device, usable in there.items() if usable)
    if not there[asked]:
        raise AttemptFailed(
            "device",
            f"`train.device` is {asked}, and this machine has none that works.",
            "Use `auto`, or start the job on a machine that has one.",
        )
    return asked


def check_quantization(asked: Quantization, device: Device) -> None:
    """Raises: AttemptFailed (`device`) where a base cannot be held in so few bits."""
    refused = quantization.refusal(asked, device)
    if refused is not None:
        raise AttemptFailed("device", *refused)


def be_deterministic() -> None:
    """Choose kernels whose result does not depend on the order in which threads finish, where there is one."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # A debugging aid that this switch turns on: it writes every fresh buffer once more.
    deterministic = cast(Any, torch.utils.deterministic)  # its switch is set by a module subclass, unseen by type checkers
    deterministic.fill_uninitialized_memory = False


def threads_for(parameters: int) -> int:
    """How many threads compute. A small model gains nothing from a third, and waits for it whenever the machine is busy."""
    return min(torch.get_num_threads(), 2) if parameters < _SMALL_PARAMETERS else torch.get_num_threads()


def free_bytes(device: Device) -> int:
    """Memory that a run may use now."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def peak_bytes(device: Device) -> int:
    """The most memory that this process has held: of the GPU, else of the machine."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
