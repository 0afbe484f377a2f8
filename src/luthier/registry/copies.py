"""Local copies of adapters, from which engines load: made when one is first asked, held while it answers, removed when nobody has
asked it for long.

Who answers with a copy holds a shared lock on its folder; who removes one holds it alone. The kernel knows of both, so this works
across threads and processes of a host, and a holder that dies holds nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import Gone
from luthier.jobs.artifacts import verified
from luthier.seams import Storage
from luthier.values import ModelFile

_UNUSED_S = 7 * 24 * 3600.0
"""Who comes back after a week waits for its copy, as at the first question."""
_SETTLED_S = 600.0
"""Whatever was asked this recently stays, also beyond the bound: somebody may be about to take hold of it."""
_ABANDONED_S = 24 * 3600.0
"""What was begun so long ago is of a process that died."""
_SCRATCH = "."
"""What the names of unfinished and of leaving copies begin with."""


@dataclass(frozen=True)
class _Copy:
    folder: Path
    used_at: float
    bytes: int


class Copies:
    """A folder of copies, one below each key. They are made of what the storage has, so any of them may go."""

    def __init__(self, folder: Path, storage: Storage, most_bytes: int) -> None:
        self._folder = folder
        self._storage = storage
        self._most_bytes = most_bytes

    def at(self, key: str) -> Path:
        """Where the copy of this key lies, if there is one."""
        return self._folder / key

    def fetched(self, stored: str, key: str, files: Sequence[ModelFile], again: str) -> Path:
        """A local folder with verified files of the storage's folder `stored`; made once.

        again: what to do about a file that is not what it was. Raises: ArtifactCorrupt.
        """
        folder = self.at(key)
        if self.used(folder):
            return folder
        with self.scratch("fetching") as scratch:
            ready = Path(scratch, key)
            for file in files:
                verified(self._storage, stored, file, again).close()
                self._storage.fetch_file(f"{stored}/{file.name}", ready / file.name)
            try:
                ready.rename(folder)
            except OSError:
                if not self.used(folder):  # somebody else made it first: theirs is as good
                    raise
        self.used(folder)
        self.sweep()
        return folder

    @contextmanager
    def scratch(self, purpose: str) -> Generator[str]:
        """A folder for something that is not finished, on the same disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=f"{_SCRATCH}{purpose}-") as made:
            yield made

    def used(self, folder: Path) -> bool:
        """Note that it is asked now, so that it stays for a while. False where it is not there."""
        try:
            os.utime(folder)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def holding(self, folder: Path) -> Generator[None]:
        """While somebody answers with this copy: nobody removes it. Raises: Gone where somebody has."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Gone("model") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # It may have been removed between the two: then the lock is on what has no name any more.
            if not self.used(folder) or not os.path.samestat(folder.stat(), os.fstat(descriptor)):
                raise Gone("model")
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self, key: str) -> Generator[bool]:
        """Whether nobody answers with this copy; if so nobody begins to while the block runs."""
        try:
            descriptor = os.open(self.at(key), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield True
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    def remove(self, key: str) -> None:
        """Fine if it is gone. For who is `alone` with it."""
        # Out of its place in one step: half a copy would be taken for a whole one.
        with self.scratch("leaving") as scratch, suppress(FileNotFoundError):
            self.at(key).rename(Path(scratch, key))

    def sweep(self) -> int:
        """Remove what was not asked for a week, and beyond the bound what was not asked for longest, but nothing that answers.

        Returns how many copies went.
        """
        kept, removed, now = 0, 0, time.time()
        for copy in sorted(self._copies(now), key=lambda each: each.used_at, reverse=True):
            unused_s = now - copy.used_at
            kept += copy.bytes
            if unused_s > _UNUSED_S or (kept > self._most_bytes and unused_s > _SETTLED_S):
                with self.alone(copy.folder.name) as alone, suppress(FileNotFoundError):  # another process may sweep, too
                    if alone and copy.folder.stat().st_mtime == copy.used_at:
                        self.remove(copy.folder.name)
                        kept, removed = kept - copy.bytes, removed + 1
        return removed

    def _copies(self, now: float) -> Iterator[_Copy]:
        """All that are whole. What a process left unfinished when it died is removed by this."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            with suppress(FileNotFoundError, NotADirectoryError):
                used_at = folder.stat().st_mtime
                if not folder.name.startswith(_SCRATCH):
                    yield _Copy(folder, used_at, sum(file.stat().st_size for file in folder.iterdir()))
                elif now - used_at > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
