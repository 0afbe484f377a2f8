"""Compile kernels.c for this machine, once, and load it.

Ahead of time would miss the machine's own instructions, and a just-in-time compiler of tensors takes tens of seconds from a
short job; this takes about two, once. Without a compiler, or where the result cannot be trusted, torch computes it all.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

# Not -ffast-math: masks rely on infinities, and the exponential on exact rounding.
_COMPILE = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-c")
# Linked without OpenMP, so that its names are found in the runtime that torch brought along: one pool of threads, not two.
_LINK = ("-shared",)
_COMPILE_S = 60


def default_folder() -> Path:
    """Where compiled kernels are kept: beside other caches of this user."""
    return Path.home() / ".cache" / "luthier" / "kernels"


def load(folder: Path | None = None, compiler: str = "cc") -> ctypes.CDLL | None:
    """The library, compiled if it has to be; None where that is not possible. Never raises for a machine that lacks something."""
    found = shutil.which(compiler)
    if found is None:
        return None
    try:
        source = files("luthier.modeling").joinpath("kernels.c").read_bytes()
        name = hashlib.sha256(b"\0".join([source, _version(found), _processor(), " ".join(_COMPILE).encode()])).hexdigest()
        folder = folder or default_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        library = folder / f"{name[:32]}.so"
        if not library.is_file():
            _compile(found, source, library)
        return ctypes.CDLL(str(library)) if _is_ours(library) else None
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, source: bytes, library: Path) -> None:
    """Into a folder of its own, then moved in one piece: several processes may start at once."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        text, compiled, linked = (Path(scratch) / name for name in ("kernels.c", "kernels.o", "kernels.so"))
        text.write_bytes(source)
        for command in (
            [compiler, *_COMPILE, str(text), "-o", str(compiled)],
            [compiler, *_LINK, str(compiled), "-o", str(linked), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_S, stdin=subprocess.DEVNULL)
        linked.replace(library)


def _is_ours(library: Path) -> bool:
    """Whether nobody else could have written it."""
    return all(
        facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for facts in (library.stat(), library.parent.stat())
    )


def _version(compiler: str) -> bytes:
    return subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, timeout=_COMPILE_S, stdin=subprocess.DEVNULL
    ).stdout


def _processor() -> bytes:
    """What `-march=native` depends on: a cache in a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(
        dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    ).encode()
