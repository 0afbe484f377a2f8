"""The machine that the platform runs on, as far as estimates need it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_BF16 = frozenset({"avx512_bf16", "amx_tile"})
_FLOPS_PER_CORE = 2.0e10
"""What a plain training loop in fp32 gets out of one core: about a fifth of its peak. Measured jobs replace it."""


@dataclass(frozen=True)
class Machine:
    """Memory and speed of `local-cpu`."""

    memory_bytes: int
    cores: int
    bf16: bool = False
    """Whether the processor multiplies bf16 by itself."""

    @property
    def assumed_flops(self) -> float:
        """Operations per second of all cores together."""
        return self.cores * _FLOPS_PER_CORE


def this_machine() -> Machine:
    """The memory and cores that this process may use: inside a container its limit, not the host's."""
    import psutil  # only a process that estimates needs it

    memory = [psutil.virtual_memory().total]
    for path in _LIMITS:
        try:
            memory.append(int(path.read_text("ascii")))
        except (OSError, ValueError):  # no such kind of limit here, or the word "max"
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(memory_bytes=min(memory), cores=cores, bf16=not _BF16.isdisjoint(_flags()))


def _flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the processor can do, by the names of Linux; empty elsewhere."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def gpus(devices: Path = Path("/dev"), visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> int:
    """NVIDIA GPUs that the trainers of this process may use. No library is asked: it would take a part of their memory."""
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in devices.glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal()])


def free_bytes() -> int:
    """Memory that a further process may use now."""
    import psutil

    return min(psutil.virtual_memory().available, this_machine().memory_bytes)
