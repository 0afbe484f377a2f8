"""Which supervisors live: each holds a lock on a file of its own, and the kernel lets go of it when the process dies.

This is faster than waiting for a heartbeat that does not come, and needs no clock. It says something on one host only.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from pathlib import Path

from luthier import ids

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]", re.ASCII)


class Presence:
    """This supervisor's name, held alive until `close`."""

    def __init__(self, folder: Path, host: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._host = _UNSAFE.sub("-", host or socket.gethostname()) or "localhost"
        self.owner = f"{self._host}/{ids.new(ids.SUPERVISOR)}"
        self._descriptor = os.open(self._path(self.owner), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def alive(self, owner: str) -> bool | None:
        """Whether that supervisor lives; None for one on another host, whose locks say nothing here."""
        if not owner.startswith(f"{self._host}/"):
            return None
        try:
            descriptor = os.open(self._path(owner), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def close(self) -> None:
        """Be gone. Whatever still bears this owner's name may be taken over at once."""
        if self._descriptor >= 0:
            self._path(self.owner).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner.rsplit('/', 1)[-1]}.lock"


def sweep(folder: Path, *, before_s: float) -> tuple[int, int]:
    """Remove the locks, made before that moment (Unix seconds), of supervisors that died. Returns how many live and went.

    A name is never used again, and one without a file counts as dead: nobody misses what goes here.
    """
    living = gone = 0
    for path in sorted(folder.glob("*.lock")):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # it ended in this moment
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_mtime < before_s:
                path.unlink(missing_ok=True)
                gone += 1
        except BlockingIOError:
            living += 1
        finally:
            os.close(descriptor)
    return living, gone
