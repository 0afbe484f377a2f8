"""Bytes on their way in: a folder of its own for each upload, which a crash or a hung-up client leaves empty-handed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import StorageFull, TooLarge

_LOCK = "lock"


@dataclass(frozen=True)
class Arrived:
    """A complete file in scratch space."""

    path: Path
    bytes: int
    sha256: str


@contextmanager
def workspace(scratch: Path, name: str) -> Generator[Path]:
    """A folder that is gone afterwards, whatever happens. While it is in use its lock keeps `sweep` away."""
    folder = scratch / name
    with full_is_told():
        folder.mkdir(parents=True, mode=0o700)
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(scratch: Path) -> None:
    """Remove what processes left that are no longer there."""
    for folder in sorted(scratch.glob("*/")):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def receive(chunks: Iterable[bytes], folder: Path, max_bytes: int) -> Arrived:
    """Write the bytes as they come. Raises: TooLarge as soon as they are too many, StorageFull."""
    path = folder / "upload"
    digest, size = hashlib.sha256(), 0
    with full_is_told(), path.open("xb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise too_large(max_bytes)
            digest.update(chunk)
            file.write(chunk)
    return Arrived(path, size, digest.hexdigest())


def adopt(source: Path, folder: Path, max_bytes: int) -> Arrived:
    """A file that is on this disk already, without a copy of it. Raises: TooLarge, StorageFull."""
    path, size = folder / "upload", source.stat().st_size
    if size > max_bytes:
        raise too_large(max_bytes)
    with full_is_told():
        try:
            path.hardlink_to(source)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, path)
    with path.open("rb") as file:
        return Arrived(path, size, hashlib.file_digest(file, "sha256").hexdigest())


def too_large(max_bytes: int) -> TooLarge:
    """Why a file is not taken."""
    return TooLarge(
        f"The file is larger than {max_bytes:,} bytes.",
        hint="Split it, or ask your admin to raise LUTHIER_MAX_UPLOAD_BYTES.",
        param="file",
    )


@contextmanager
def full_is_told() -> Generator[None]:
    """A full disk is StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull from error
        raise
