"""Compile a C file of ours for this machine, once, and load it.

Ahead of time would miss the machine's own instructions, and a just-in-time compiler of tensors takes tens of seconds from a
short job; this takes about two, once. Without a compiler, or where the result cannot be trusted, there is no library: whoever
asks for one has a slower way to do the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_COMPILE_S = 60
_DIGEST_BYTES = 32
_FAILURES = (OSError, subprocess.SubprocessError, RuntimeError)  # RuntimeError: a user without a home


@dataclass(frozen=True)
class Source:
    """A C file beside a Python module, and how it is compiled."""

    package: str
    name: str
    """Without its ending."""
    options: tuple[str, ...]
    """For the compiler; the linker gets none but `-shared`."""
    more: tuple[str, ...] = ()
    """Further files that are compiled as its end."""

    def text(self) -> bytes:
        return b"".join(files(self.package).joinpath(f"{name}.c").read_bytes() for name in (self.name, *self.more))

    def folder(self) -> Path:
        """Where its libraries are kept: beside other caches of this user."""
        return Path.home() / ".cache" / "luthier" / self.name


def load(source: Source, folder: Path | None = None, compiler: str = "cc") -> ctypes.CDLL | None:
    """The library, compiled if it has to be; None where that is not possible. Never raises for a machine that lacks something."""
    library = place(source, folder, compiler)
    return opened(library) if library is not None and make(source, library, compiler) else None


def place(source: Source, folder: Path | None = None, compiler: str = "cc") -> Path | None:
    """Where the library lies, or will once it is made; None where it cannot be made, or others could write there."""
    found = shutil.which(compiler)
    if found is None:
        return None
    try:
        machine = [_version(found), _processor(), " ".join(source.options).encode()]
        name = hashlib.sha256(b"\0".join([source.text(), *machine])).hexdigest()
        folder = folder or source.folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{name[:32]}.so" if _is_ours(folder) else None
    except _FAILURES:
        return None


def make(source: Source, library: Path, compiler: str = "cc") -> bool:
    """Compile it, if it is not there; whether it is now."""
    found = shutil.which(compiler)
    try:
        if not is_made(library) and found is not None:
            _compile(found, source, library)
        return is_made(library)
    except _FAILURES:
        return False


def is_made(library: Path) -> bool:
    """Whether it is there, whole, and nobody else could have written it."""
    try:
        return library.is_file() and _is_ours(library) and _is_whole(library)
    except OSError:
        return False


def opened(library: Path) -> ctypes.CDLL | None:
    """The library that lies there, if it is one."""
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        return None


def _compile(compiler: str, source: Source, library: Path) -> None:
    """Into a folder of its own, then moved in one piece: several processes may start at once."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        text, compiled, linked = (Path(scratch) / f"{source.name}{ending}" for ending in (".c", ".o", ".so"))
        text.write_bytes(source.text())
        for command in (
            [compiler, *source.options, "-fPIC", "-c", str(text), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(linked), "-lm"],
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


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, timeout=_COMPILE_S, stdin=subprocess.DEVNULL
    ).stdout


@functools.cache
def _processor() -> bytes:
    """What `-march=native` depends on: a cache in a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(
        dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    ).encode()
