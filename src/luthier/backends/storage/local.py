"""Storage on a local folder: atomic writes with fsync, no way out of the root."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO
from uuid import uuid4

from luthier.errors import StorageFull
from luthier.seams import BadName, NotStored

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NEVER_STORED = frozenset({errno.ELOOP, errno.ENAMETOOLONG})
_TEMPORARY = ".tmp-"
_COPY_BYTES = 1024 * 1024


class LocalStorage:
    """Objects are files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def url(self) -> str:
        return self.root.as_uri()

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        try:
            # O_NONBLOCK: opening a FIFO that somebody put here must fail below, not hang.
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotStored(name) from error
        except OSError as error:
            if error.errno in _NEVER_STORED:
                raise NotStored(name) from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotStored(name)
        return os.fdopen(descriptor, "rb")

    def size(self, name: str) -> int | None:
        try:
            status = os.lstat(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NEVER_STORED:
                return None
            raise
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def write(self, name: str, data: bytes) -> None:
        with self._replacing(name) as file:
            file.write(data)

    def place(self, folder: str, files: Mapping[str, bytes]) -> None:
        paths = [self._path(f"{folder}/{name}") for name in files]
        with _full_is_told(), contextlib.ExitStack() as stack:
            _make_folder(paths[0].parent.parent)
            paths[0].parent.mkdir(exist_ok=True)
            opened = [stack.enter_context(path.open("xb")) for path in paths]
            for file, data in zip(opened, files.values(), strict=True):
                file.write(data)
                file.flush()
            # All is written before the first is waited for: the journal takes the names of all of them to the disk with it, and
            # the folders then have next to nothing left to write.
            for file in opened:
                os.fsync(file.fileno())
            _sync_folder(paths[0].parent)
            _sync_folder(paths[0].parent.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self._prepared(name)
        temporary = _temporary(path)
        try:
            with _full_is_told():
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, path)
                _sync_folder(path.parent)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def append(self, name: str, data: bytes) -> None:
        with _full_is_told(), self._prepared(name).open("ab") as file:
            file.write(data)

    def put_file(self, name: str, source: Path) -> None:
        path = self._prepared(name)
        temporary = _temporary(path)
        try:
            with _full_is_told():
                _link_or_copy(source, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def fetch_file(self, name: str, target: Path) -> None:
        with self.open(name) as file:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(self._path(name), target)
            except OSError:  # another file system, one without hard links, or deleted since it was opened
                with target.open("xb") as copy:
                    shutil.copyfileobj(file, copy, _COPY_BYTES)

    def names(self, prefix: str) -> Iterator[str]:
        top = self._path(prefix) if prefix else self.root
        if top.is_symlink():  # `walk` would follow this one
            return
        found: list[str] = []
        for folder, _, files in os.walk(top, followlinks=False):
            found += [str(Path(folder, file).relative_to(self.root)) for file in files if _TEMPORARY not in file]
        yield from sorted(name.replace(os.sep, "/") for name in found)

    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def _replacing(self, name: str) -> Generator[IO[bytes]]:
        path = self._prepared(name)
        temporary = _temporary(path)
        try:
            with _full_is_told():
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _prepared(self, name: str) -> Path:
        path = self._path(name)
        with _full_is_told():
            _make_folder(path.parent)
        return path

    def _path(self, name: str) -> Path:
        """The file of a name. Raises: BadName for one that leads out of the root, by dots or by a link."""
        parts = name.split("/")
        if not name or "\x00" in name or any(part in ("", ".", "..") for part in parts):
            raise BadName("not a storage name")
        path = self.root
        for part in parts[:-1]:
            path = path / part
            if path.is_symlink():
                raise BadName("a storage name never passes a symbolic link")
        return path / parts[-1]


def _make_folder(folder: Path) -> None:
    """The folder with all above it, each on disk before anything in it is: a power cut must not take it away again."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{uuid4().hex}")


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_is_told() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull from error
        raise
