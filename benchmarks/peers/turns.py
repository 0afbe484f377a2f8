"""One optimiser step at a time: what a trainer under measurement tells its driver, and where it waits.

Standard library only: it runs in the environments of all peers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def settings() -> dict[str, Any]:
    """What this peer has to train, and how; its driver's only argument."""
    return json.loads(sys.argv[1])


class Turns:
    """Tells each finished step, and waits for leave to do the next. Without a driver nothing waits, and the steps are printed."""

    def __init__(self) -> None:
        self._go, self._told = (int(os.environ[name]) if name in os.environ else None for name in ("BENCH_GO", "BENCH_TOLD"))
        self._step = 0
        self._began = time.monotonic()
        self._cpu = 0.0

    def done(self, losses: list[float], tokens: int, loss_tokens: int | None = None) -> None:
        """The step is over. `losses`: of each adapter that took part; `tokens`: real ones, without padding."""
        now, cpu = time.monotonic(), cpu_seconds()
        self._step += 1
        told = {
            "step": self._step,
            "at": now,
            "seconds": now - self._began,
            "cpu_seconds": cpu - self._cpu,
            "losses": losses,
            "tokens": tokens,
            "loss_tokens": loss_tokens,
            "peak_bytes": peak_bytes(),
        }
        line = json.dumps(told).encode() + b"\n"
        if self._told is None or self._go is None:
            sys.stderr.write(line.decode())
        else:
            os.write(self._told, line)
            if not os.read(self._go, 1):
                os._exit(0)  # the driver has seen enough; what a trainer does after its last step is not measured
        self._began, self._cpu = time.monotonic(), cpu_seconds()


def cpu_seconds() -> float:
    """Of all threads of this process."""
    return time.process_time()


def peak_bytes() -> int:
    """The most memory that this process has held at once (Linux)."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
