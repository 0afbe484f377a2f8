"""A trainer that is started before its job is known: it gets ready, waits for one order, and is an ordinary trainer from there.

The order is one line of JSON in the pipe that ends with the parent: `{"jobs": [<job-url>, ...], "log": <path>}`. A pipe that
ends without one means that nobody needs the process any more. It takes no second order: what one job leaves in a process
(random numbers, switches of torch, memory) meets no other job and no other tenant.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import psutil

from luthier.errors import LuthierError
from luthier.jobs.directory import EXIT_SETUP
from luthier.training.failures import AttemptFailed

if TYPE_CHECKING:
    from luthier.jobs.spec import RunSpec
    from luthier.training.fitting import LoadedBases

T = TypeVar("T")
Stand: TypeAlias = tuple[object, ...]

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_WHILE_LOADING = 2
"""The files of a base, mapped, and the weights that are made of them stand in memory side by side for a moment."""


@dataclass(frozen=True)
class Order:
    """What to train, and the file that takes what the process says from now on."""

    jobs: tuple[str, ...]
    log: Path


def wait_for_order(pipe: int, prepare: Callable[[], T], leave: Callable[[int], object] = os._exit) -> tuple[Order, T]:
    """Prepare, and return what came of it with the order. Leaves the process, also in the midst of preparing, when the pipe
    ends without one."""
    orders: queue.Queue[Order] = queue.Queue()

    def listen() -> None:
        line = _line(pipe)
        if line is None:
            leave(0)
            return
        try:
            orders.put(read_order(line))
        except (ValueError, KeyError, TypeError):
            leave(EXIT_SETUP)

    threading.Thread(target=listen, name="orders", daemon=True).start()
    prepared = prepare()
    return orders.get(), prepared


def read_order(line: bytes) -> Order:
    """Raises: ValueError, KeyError, TypeError for what no executor writes."""
    given = json.loads(line)
    return Order(tuple(map(str, given["jobs"])), Path(given["log"]))


def speak_into(log: Path) -> None:
    """From here on whatever the process prints is the log of the job."""
    output = os.open(log, _APPEND, 0o600)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(output, number)
    os.close(output)


@dataclass
class Ready:
    """What is in memory before the job is known."""

    loaded: LoadedBases
    stand: Stand | None
    """Of the job that came before; of whoever owns that one nothing else is kept."""

    def take(self, spec: RunSpec) -> LoadedBases:
        """Give away the base that is loaded, if this run stands on it; otherwise none, and its memory is free."""
        from luthier.training.fitting import LoadedBases

        loaded, self.loaded = self.loaded, LoadedBases()
        return loaded if self.stand == stand_of(spec) else self.loaded


def get_ready(like: RunSpec | None, bases: Path, most_bytes: int) -> Ready:
    """Import what trains, and load the base of a run like that one: of one that is in the cache, stays below `most_bytes` of
    memory, and computes on the CPU. Memory of a GPU is left to those that train."""
    began = time.monotonic()
    from luthier.modeling import kernels
    from luthier.training.fitting import LoadedBases, load_once

    import_module("luthier.training.attempt")  # and all that a first step needs
    kernels.library()
    loaded, held = LoadedBases(), "no base"
    try:
        if like is not None and (folder := _base_of(like, bases, most_bytes)) is not None:
            load_once(loaded, like, folder, None)
            held = like.base_model
    except (LuthierError, AttemptFailed, OSError, RuntimeError, ValueError) as error:
        # The job that meets the same tells its owner what it is; here nobody listens.
        sys.stderr.write(f"No base is loaded ahead: {type(error).__name__}.\n")
    if _rss_bytes() > most_bytes:
        loaded, held = LoadedBases(), "no base"
        gc.collect()
    sys.stderr.write(f"Ready after {time.monotonic() - began:.1f} s with {_rss_bytes() // 2**20} MiB and {held}.\n")
    return Ready(loaded, None if like is None else stand_of(like))


def _base_of(like: RunSpec, bases: Path, most_bytes: int) -> Path | None:
    """The folder of its base, where that may be loaded ahead."""
    from luthier.modeling.fetch import cached_base
    from luthier.training.machine import resolve_device

    source = like.sources.base if like.sources is not None else None
    if source is None or like.method == "classifier" or resolve_device(like.train.device) != "cpu":
        return None
    folder = cached_base((source.id, source.revision), bases)
    if folder is None:
        return None
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return folder if _rss_bytes() + _WHILE_LOADING * size <= most_bytes else None


def stand_of(spec: RunSpec) -> Stand:
    """What runs have in common that stand on the same weights in memory."""
    base = spec.sources.base if spec.sources is not None else None
    return (base, spec.train.device, spec.train.precision, spec.train.quantization, spec.method == "classifier")


def _rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _line(pipe: int) -> bytes | None:
    """What stands in the pipe up to the end of a line; None where the pipe ends before."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            more = os.read(pipe, 65536)
        except InterruptedError:
            continue
        except OSError:
            return None
        if not more:
            return None
        line += more
    return bytes(line)
