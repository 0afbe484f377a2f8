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

# Not -ffast-math: masks rely on infinities, and the exponential on exact rounding. No patterns: gcc would make each loop that
# loads a row in fp32 a call of memcpy, which takes twice as long for a few kilobytes (benchmarks/kernels.py).
_COMPILE = (
    *("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-fno-tree-loop-distribute-patterns", "-fPIC", "-c"),
)
# Linked without OpenMP, so that its names are found in the runtime that torch brought along: one pool of threads, not two.
_LINK = ("-shared",)
_COMPILE_S = 60
_DIGEST_BYTES = 32


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
        if not _is_ours(folder):
            return None
        library = folder / f"{name[:32]}.so"
        if not (library.is_file() and _is_ours(library) and _is_whole(library)):
            _compile(found, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError, RuntimeError):  # RuntimeError: a user without a home
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
        binary = linked.read_bytes()
        linked.write_bytes(binary + hashlib.sha256(binary).digest())
        linked.chmod(0o700)  # whatever the umask: a library that the group could write is not loaded
        linked.replace(library)


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written it."""
    facts = path.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_whole(library: Path) -> bool:
    """Whether it ends with its own digest. A crash of the machine can leave half a file, and to load that ends the process."""
    content = library.read_bytes()
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


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
