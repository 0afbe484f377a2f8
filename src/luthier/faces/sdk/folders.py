"""Folders on their way in: every file of a model, or of what an export made, each whole and checked."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from luthier.errors import ClientError
from luthier.faces.sdk.answers import ModelFile
from luthier.faces.sdk.files import Fetch, fetch
from luthier.faces.sdk.transport import Transport

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
# Names that Windows takes for devices, whatever their ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

FileProgress = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes so far and its bytes in all."""


async def listed(transport: Transport, route: str) -> tuple[ModelFile, ...]:
    """The files that a route lists. Raises: ClientError where one has a name that is no plain file name."""
    found = tuple([file async for file in transport.each(route, ModelFile, limit=None)])
    for file in found:
        _check_name(file.name)
    return found


async def fetch_all(transport: Transport, route: str, folder: Path, on_progress: FileProgress | None = None) -> tuple[Path, ...]:
    """All files of a route into `folder`. Each appears under its name only when whole and checked; a second call goes on."""
    files = await listed(transport, route)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"The folder cannot be made: {error.strerror}.", hint="Choose another one.", code="file") from None
    paths: list[Path] = []
    for file in files:
        path = folder / file.name
        wanted = Fetch(f"{route}/{quote(file.name, safe='')}", path, file.bytes, file.sha256)
        await fetch(transport, wanted, _named(file.name, on_progress))
        paths.append(path)
    return tuple(paths)


def packed_folder(folder: Path, target: Path) -> Path:
    """The files of a folder, or one file, as an uncompressed tar. What lies deeper, and hidden files, stay behind.

    Raises: ClientError.
    """
    try:
        paths = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if path.is_file())
        with tarfile.open(target, "w") as tar:
            for path in paths:
                if not path.name.startswith("."):
                    header = tarfile.TarInfo(path.name)
                    header.size = path.stat().st_size
                    with path.open("rb") as file:
                        tar.addfile(header, file)
    except OSError as error:
        raise ClientError(f"The folder cannot be read: {error.strerror}.", hint="Check the path.", code="file") from None
    return target


def _check_name(name: object) -> None:
    # The server is not trusted with our file system: its names must stay inside the folder, and be visible there.
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name) or _DEVICE.fullmatch(name) or name.endswith("."):
        raise ClientError(
            "The server gave a file name that is no plain name; nothing was written.", hint="Do not trust this server."
        )


def _named(name: str, on_progress: FileProgress | None) -> Callable[[int, int | None], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(name, done, total)
