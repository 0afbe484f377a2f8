"""Locks on a data folder: the kernel frees them when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_TRIES, _AGAIN_S = 5, 0.05


class FolderLock:
    """One holder at a time of `<folder>/<name>.lock`, on one host."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"{name}.lock"
        self._descriptor: int | None = None

    def take_patiently(self) -> bool:
        """`take`, which a short look by somebody who only asks whether it is held does not thwart."""
        return any(self.take() or time.sleep(_AGAIN_S) for _ in range(_TRIES))

    def take(self) -> bool:
        """Become the holder; False where another process is."""
        # CLOEXEC: a child that inherited the descriptor would keep the lock after we are gone.
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def held_by_another(self) -> bool:
        """Whether some process holds it now."""
        if self._descriptor is not None:
            return False
        if not self.take():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Let go of it; fine if it was not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
