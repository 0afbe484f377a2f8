"""What a reader must know of the machine, and how much of it a trainer used."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_PEAK = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a, b = (torch.randn(2048, 2048).to(getattr(torch, sys.argv[2])) for _ in range(2))
def once():
    began = time.perf_counter()
    for _ in range(4):
        a @ b
    return 4 * 2 * 2048**3 / (time.perf_counter() - began)
print(sorted(once() for _ in range(24))[-6])
"""


def matrix_peak(threads: int, precision: str) -> float:
    """Floating-point operations a second of one large matrix product: the upper quartile of 24 tries."""
    dtype = "bfloat16" if precision == "bf16" else "float32"
    done = subprocess.run([sys.executable, "-c", _PEAK, str(threads), dtype], capture_output=True, text=True, check=True)
    return float(done.stdout)


def flops_per_token(shape: Any, rank: int, rows: list[tuple[int, int]]) -> float:
    """Useful operations of one token in LoRA training: forward, and gradients where something learns below.

    rows: (tokens, loss tokens) of each row. Recomputed activations, padding and logits of masked tokens are nobody's use.
    """
    kv = shape.hidden * shape.kv_heads // shape.heads
    linears = [(shape.hidden, shape.hidden), (shape.hidden, kv), (shape.hidden, kv), (shape.hidden, shape.hidden)]
    linears += [(shape.hidden, shape.intermediate)] * 2 + [(shape.intermediate, shape.hidden)]
    tokens = sum(length for length, _ in rows)
    base = 4 * shape.layers * sum(wide * high for wide, high in linears)
    adapter = 6 * shape.layers * rank * sum(wide + high for wide, high in linears)
    head = 4 * shape.hidden * shape.vocab * sum(loss for _, loss in rows) / tokens
    attention = 6 * shape.layers * shape.hidden * sum(length**2 for length, _ in rows) / tokens
    return base + adapter + head + attention


def machine() -> dict[str, Any]:
    """Of this machine, now."""
    flags = cpu_flags()
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16") if flag in flags],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_name() -> str:
    """The folder of this machine's results."""
    return f"{platform.machine()}-{psutil.cpu_count()}cpu"


def cpu_flags() -> set[str]:
    return set(cpu_line("flags").split())


def cpu_name() -> str:
    return cpu_line("model name") or platform.processor()


def cpu_line(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


_PACKAGES = ("luthier", "torch", "transformers", "peft", "trl", "accelerate", "llamafactory", "together", "llama-cpp-python")
_VERSIONS = """
import json, sys
from importlib import metadata
found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))
"""


def versions(python: str) -> dict[str, str]:
    """Of what trains, in the environment of this interpreter."""
    done = subprocess.run([python, "-c", _VERSIONS, *_PACKAGES], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
