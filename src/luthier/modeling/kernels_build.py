"""How kernels.c is compiled and linked."""

from __future__ import annotations

import ctypes
from pathlib import Path

from luthier import compiled

# Not -ffast-math: masks rely on infinities, and the exponential on exact rounding. No patterns: gcc would make each loop that
# loads a row in fp32 a call of memcpy, which takes twice as long for a few kilobytes (benchmarks/kernels.py).
# It is linked without OpenMP, so that its names are found in the runtime that torch brought along: one pool of threads, not two.
_OPTIONS = (
    *("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    "-fno-tree-loop-distribute-patterns",
)
KERNELS = compiled.Source("luthier.modeling", "kernels", _OPTIONS, more=("decoding",))


def load(folder: Path | None = None, compiler: str = "cc") -> ctypes.CDLL | None:
    """The library; None where there can be none, and torch computes it all."""
    return compiled.load(KERNELS, folder, compiler)
