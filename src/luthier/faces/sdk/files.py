"""Files on their way out and in: streamed, hashed, taken up where they broke off."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from luthier.errors import ArtifactCorrupt, ClientError, RangeInvalid
from luthier.faces.sdk.transport import Call, Transport, lost

if TYPE_CHECKING:
    import httpx

_CHUNK_BYTES = 1024 * 1024
Progress = Callable[[int, int | None], None]


class Outgoing:
    """The bytes of an upload. `chunks` starts again from the front on each call, unless `once`."""

    def __init__(self, source: Path | BinaryIO, on_progress: Progress | None) -> None:
        self._source = source
        self._on_progress = on_progress
        self.once = True
        self.name: str | None = source.stem or None if isinstance(source, Path) else None
        self.size: int | None = None
        self.sha256: str | None = None
        self.sent_sha256: str | None = None

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The bytes, from the front. Raises: ClientError where the file is no longer the one that was hashed."""
        file = await asyncio.to_thread(_opened, self._source)
        digest = hashlib.sha256()
        done = 0
        try:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                done += len(chunk)
                if self.size is not None and done > self.size:
                    raise _changed()
                digest.update(chunk)
                yield chunk
                if self._on_progress:
                    self._on_progress(done, self.size)
        finally:
            if file is not self._source:
                file.close()
        self.sent_sha256 = digest.hexdigest()
        if (self.size is not None and done != self.size) or self.sha256 not in {None, self.sent_sha256}:
            raise _changed()

    async def part(self, start: int, size: int) -> AsyncGenerator[bytes]:
        """Bytes from the middle of the file. Raises: ClientError where it is shorter now."""
        file = await asyncio.to_thread(_opened, self._source)
        try:
            await asyncio.to_thread(file.seek, start)
            done = 0
            while done < size:
                chunk = await asyncio.to_thread(file.read, min(_CHUNK_BYTES, size - done))
                if not chunk:
                    raise _changed()
                done += len(chunk)
                yield chunk
                if self._on_progress:
                    self._on_progress(start + done, self.size)
        finally:
            file.close()


async def outgoing(source: str | os.PathLike[str] | BinaryIO, on_progress: Progress | None) -> Outgoing:
    """`source`, hashed if it is a regular file: only that can be read twice."""
    found = Outgoing(Path(source) if isinstance(source, str | os.PathLike) else source, on_progress)
    if isinstance(source, str | os.PathLike):
        await asyncio.to_thread(_measure, Path(source), found)
    return found


@dataclass(frozen=True)
class Fetch:
    """A file to bring here: from which route, to which path, and what it must be then."""

    route: str
    path: Path
    size: int
    sha256: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])


async def size_of(transport: Transport, wanted: Fetch) -> int:
    """How large a file is that nothing has told the size of: what the answer to one byte of it says."""
    headers = {"accept": "*/*", "accept-encoding": "identity", "range": "bytes=0-0"}
    async with transport.open(Call("GET", wanted.route, wanted.query, headers=headers)) as response:
        total = response.headers.get("content-range", "").rpartition("/")[2]
    if not total.isdecimal():
        raise ClientError("The server does not say how large the file is.", hint="Is it a server of this version?")
    return int(total)


async def fetch(transport: Transport, wanted: Fetch, on_progress: Progress | None = None) -> None:
    """Bring the file to `<path>.part`, going on where an earlier try ended; check it; then give it its name.

    Raises: ArtifactCorrupt where the bytes do not match; the part is removed then, and `path` was never touched.
    """
    part = wanted.path.with_name(wanted.path.name + ".part")
    try:
        if await asyncio.to_thread(_is_there, wanted):
            if on_progress:
                on_progress(wanted.size, wanted.size)
            return
        went_on = _size_of(part) > 0
        right = await _brought(transport, wanted, part, on_progress)
        # What lay there may have been the beginning of another file: that deserves one try from the front.
        if not right and not (went_on and await _brought(transport, wanted, part, on_progress)):
            raise ArtifactCorrupt(
                "A downloaded file does not match its checksum; it was removed.",
                hint="Download it again. If it happens again, the server's copy is damaged: run `luthier doctor` there.",
            )
        os.replace(part, wanted.path)
    except OSError as error:
        raise ClientError(f"The file cannot be written: {error.strerror}.", hint="Check the folder.", code="file") from None


async def _brought(transport: Transport, wanted: Fetch, part: Path, on_progress: Progress | None) -> bool:
    """Whether the part is now what it must be; one that is not is removed."""

    async def once() -> None:
        await _bring(transport, wanted, part, on_progress)

    await transport.tried(once, again=True)
    if await asyncio.to_thread(_sha256, part) == wanted.sha256:
        return True
    part.unlink()
    return False


async def _bring(transport: Transport, wanted: Fetch, part: Path, on_progress: Progress | None) -> None:
    import httpx

    have = _size_of(part)
    if have > wanted.size:
        part.unlink()
        have = 0
    if have == wanted.size and have:
        return
    # `identity`: bytes and ranges must be those of the file.
    headers = {"accept": "*/*", "accept-encoding": "identity"}
    if have:  # `if-range`: of another file than this one the server sends all, and not its middle
        headers |= {"range": f"bytes={have}-", "if-range": f'"{wanted.sha256}"'}
    try:
        async with transport.open(Call("GET", wanted.route, wanted.query, headers=headers)) as response:
            starts = have if _goes_on(response, have) else 0
            await _write(response, part, wanted, starts=starts, on_progress=on_progress)
    except RangeInvalid:
        part.unlink(missing_ok=True)
        raise ClientError("The server has another file now than when this download began.", hint="Download it again.") from None
    if _size_of(part) != wanted.size:
        raise lost(httpx.ReadError("cut short"))


async def _write(response: httpx.Response, part: Path, wanted: Fetch, *, starts: int, on_progress: Progress | None) -> None:
    done = starts
    with _part(part, keep=bool(starts)) as file:
        async for chunk in response.aiter_raw():
            done += len(chunk)
            if done > wanted.size:
                file.truncate(0)
                raise ClientError("The server sends more bytes than it said.", hint="Do not trust this server.")
            file.write(chunk)
            if on_progress:
                on_progress(done, wanted.size)


def _goes_on(response: httpx.Response, have: int) -> bool:
    return bool(have) and response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {have}-")


def _part(part: Path, *, keep: bool) -> BinaryIO:
    # O_NOFOLLOW: in a folder that others may write to, a link under our name must not lead elsewhere.
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(part, flags | (os.O_APPEND if keep else os.O_TRUNC), 0o666)
    return os.fdopen(handle, "ab" if keep else "wb")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_there(wanted: Fetch) -> bool:
    return wanted.path.is_file() and _size_of(wanted.path) == wanted.size and _sha256(wanted.path) == wanted.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measure(path: Path, found: Outgoing) -> None:
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ClientError("This is a folder; a dataset is one file.", hint="Name the .jsonl or .json file.", code="file")
        if stat.S_ISREG(facts.st_mode):
            found.sha256 = _sha256(path)
            found.size = facts.st_size
            found.once = False
    except OSError as error:
        raise _unreadable(error) from None


def _opened(source: Path | BinaryIO) -> BinaryIO:
    if not isinstance(source, Path):
        return source
    try:
        return source.open("rb")
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> ClientError:
    return ClientError(f"The file cannot be read: {error.strerror}.", hint="Check the path and its permissions.", code="file")


def _changed() -> ClientError:
    return ClientError("The file changed while it was read; nothing was stored.", hint="Wait until it is written.", code="file")
