"""Tokenised rows that outlive their run: the next run on the same data starts at once.

An entry lies under a key of everything that its tokens depend on: the data's bytes, the tokenizer with its templates, what is
read of them at which length, and the code that does it. So it is found for equal content alone, and never has to be kept up to
date. It is one file, moved into its place when it is whole; who reads it looks at its checksum first, and what does not verify
is made anew. Any number of trainers may read, write and make room at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from luthier.training.batches import Rows
from luthier.training.columns import Column

_MAGIC = b"luthier tokens 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
_SIZE_BYTES = 8
_BLOCK = 1 << 20
_ABANDONED_S = 3600
_RENDERING = (("datasets", "*.py"), ("training", "parts.py"), ("training", "batches.py"))
"""Where the code is that makes tokens of rows."""


@dataclass(frozen=True)
class Kept:
    """Rows as tokens, and what a method keeps of each beside them: labels, grader's items."""

    rows: Rows
    beside: Sequence[Any] = ()


def key_of(data_sha256: str, rendering: str, options: Sequence[str | int]) -> str:
    """The name of an entry. rendering: the fingerprint of tokenizer and templates."""
    versions = [version(name) for name in ("tokenizers", "jinja2")]
    said = [data_sha256, rendering, list(options), sys.byteorder, versions, _code()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for folder, names in _RENDERING:
        for file in sorted(files("luthier").joinpath(folder).iterdir(), key=lambda each: each.name):
            if fnmatchcase(file.name, names):
                digest.update(file.read_bytes())
    return digest.hexdigest()


class TokenCache:
    """A folder of entries, none older than the room allows: those that were not used for longest go first."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def get(self, key: str, make: Callable[[], Kept]) -> tuple[Kept, bool]:
        """What lies under the key, or what `make` makes, which then lies there; and whether it was there.

        A cache that cannot be read or written is as good as an empty one. Raises: what `make` raises.
        """
        path = self._folder / key
        found = _read(path)
        if found is not None:
            return found, True
        made = make()
        with contextlib.suppress(OSError, ValueError):  # a full disk; numbers that JSON does not know
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(path, made)
            self._make_room()
        return made, False

    def _write(self, path: Path, kept: Kept) -> None:
        """Raises: OSError, ValueError."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
            try:
                digest = hashlib.sha256()
                file.write(_MAGIC + bytes(_DIGEST_BYTES))
                for part in _parts(kept):
                    file.write(part)
                    digest.update(part)
                    if file.tell() > self._most_bytes:
                        raise ValueError("the rows have more tokens than the cache has room")
                file.seek(len(_MAGIC))
                file.write(digest.digest())
                file.flush()
                os.replace(file.name, path)
            finally:
                Path(file.name).unlink(missing_ok=True)  # gone where it was moved

    def _make_room(self) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime, reverse=True)
        used = 0
        for path, stat in entries:
            used += stat.st_size
            abandoned = path.name.startswith(".") and time.time() - stat.st_mtime > _ABANDONED_S
            if abandoned or (used > self._most_bytes and not path.name.startswith(".")):
                path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()


def _parts(kept: Kept) -> Iterator[bytes]:
    """The bytes of an entry behind its checksum: the size of the head, the head, and the columns."""
    columns = kept.rows.columns
    facts = {**kept.rows.counts, "columns": [[column.code, len(column)] for column in columns]}
    head = json.dumps({**facts, "beside": list(kept.beside)}, allow_nan=False).encode()
    head += b" " * (-(len(head) + len(_MAGIC) + _DIGEST_BYTES + _SIZE_BYTES) % _SIZE_BYTES)
    yield len(head).to_bytes(_SIZE_BYTES, "little")
    yield head
    for column in columns:
        for start in range(0, len(column), _BLOCK):
            yield column.part(start, min(len(column), start + _BLOCK)).tobytes()


def _read(path: Path) -> Kept | None:
    try:
        with path.open("rb") as file:
            entry = _whole(file)
            os.utime(file.fileno())  # used just now
    except OSError:
        return None
    if entry is None:
        path.unlink(missing_ok=True)  # torn or tampered with
        return None
    at = len(_MAGIC) + _DIGEST_BYTES
    size = int.from_bytes(entry[at : at + _SIZE_BYTES], "little")
    start = at + _SIZE_BYTES + size
    head = json.loads(entry[at + _SIZE_BYTES : start])
    columns: list[Column[Any]] = []
    for code, count in head.pop("columns"):
        columns.append(Column.stored(code, entry, start, count))
        start += columns[-1].bytes
    beside = head.pop("beside")
    return Kept(Rows.of(columns, head), beside)


def _whole(file: BinaryIO) -> mmap.mmap | None:
    """The entry in memory's map; None where it is not what was written. Raises: OSError."""
    if os.fstat(file.fileno()).st_size <= len(_MAGIC) + _DIGEST_BYTES:
        return None
    entry = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = len(_MAGIC) + _DIGEST_BYTES
    digest = hashlib.sha256()
    with memoryview(entry) as view:
        for start in range(at, len(view), _BLOCK):
            digest.update(view[start : start + _BLOCK])
        same = bytes(view[:at]) == _MAGIC + digest.digest()
    return entry if same else None
