"""Trainers as live processes that take turns, one optimiser step each, so that a busy minute is busy for both of a pair."""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

STEP_TIMEOUT_S = 900.0
_SAMPLE_S = 0.25


@dataclass(frozen=True)
class Step:
    """What a trainer told of one optimiser step, and who else used the machine meanwhile."""

    step: int
    at: float
    seconds: float
    cpu_seconds: float
    losses: list[float]
    """Of each adapter that took part: one, but for a gang."""
    tokens: int
    """Of all of them, without padding."""
    loss_tokens: int | None
    """Where it tells."""
    peak_bytes: int
    others_cores: float = 0.0
    """Cores that other processes kept busy, on average."""

    @property
    def loss(self) -> float:
        """Of the first adapter, which every trainer trains."""
        return self.losses[0]

    @property
    def tokens_per_adapter(self) -> float:
        return self.tokens / len(self.losses)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass
class Racer:
    """One trainer process. It stands still whenever it is not its turn."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    steps: list[Step] = field(default_factory=list[Step])
    tree_peak_bytes: int = 0
    started: float = 0.0

    def __enter__(self) -> Self:
        go, self._go = os.pipe()
        self._told, told = os.pipe()
        environment = {**os.environ, **self.environment, "BENCH_GO": str(go), "BENCH_TOLD": str(told)}
        with self.log.open("w") as log:
            self.started = time.monotonic()
            self._busy = busy_seconds()
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=(go, told)
            )
        os.close(go)
        os.close(told)
        self._watched = threading.Event()
        self._watcher = threading.Thread(target=self._watch_memory, daemon=True)
        self._watcher.start()
        self._buffer = b""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._watched.set()
        os.close(self._go)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._watcher.join()
        os.close(self._told)

    def turn(self) -> Step:
        """Let it do its next step, and wait for the end of it. The first step comes by itself.

        Raises: RuntimeError with the end of its log when it ends or hangs instead.
        """
        if self.steps:
            self._busy = busy_seconds()
            os.write(self._go, b"g")
        told = json.loads(self._line())
        wall = told["seconds"] if self.steps else told["at"] - self.started
        others = max(0.0, busy_seconds() - self._busy - told["cpu_seconds"]) / wall
        step = Step(**told, others_cores=round(others, 2))
        self.steps.append(step)
        return step

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process held, or it and its children together."""
        return max([self.tree_peak_bytes, *(step.peak_bytes for step in self.steps)])

    def seconds_to_step(self, number: int) -> float:
        """From the start of the process to the end of this step, its waiting for others left out."""
        return self.steps[0].at - self.started + sum(step.seconds for step in self.steps[1:number])

    def _line(self) -> bytes:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._told], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._told, 65_536) if ready else b""
            if not piece:
                tail = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-25:])
                raise RuntimeError(f"{self.name} did not finish its step:\n{tail}")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _watch_memory(self) -> None:
        while not self._watched.wait(_SAMPLE_S):
            self.tree_peak_bytes = max(self.tree_peak_bytes, tree_bytes(self._process.pid))


def tree_bytes(pid: int) -> int:
    """Memory of a process and its children now. 0 when it has ended."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def busy_seconds() -> float:
    """Processor seconds that the whole machine has spent working since it started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system
