"""Models of the registry: list, download with checksums, stage."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

from luthier import ids
from luthier.errors import ClientError, NotFound
from luthier.faces.sdk.answers import Model, ModelFile, Page
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.files import Fetch, fetch
from luthier.faces.sdk.transport import Call, Transport

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
# Names that Windows takes for devices, whatever their ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

FileProgress = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes so far and its bytes in all."""


class AsyncModels:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self, *, name: str | None = None, stage: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page[Model]:
        """One page of your team's models, newest first; only those of a name or stage where one is given."""
        return await self._transport.page("/api/models", Model, name=name, stage=stage, limit=limit, after=after)

    def each(self, *, name: str | None = None, stage: str | None = None) -> AsyncGenerator[Model]:
        """All of your team's models, newest first; only those of a name or stage where one is given."""
        return self._transport.each("/api/models", Model, name=name, stage=stage)

    async def get(self, model: str) -> Model:
        """One version, with its card. `model` is an id, `name@3`, or a name: then the version in Production."""
        if ids.is_id(model, ids.MODEL):
            return await self._transport.get(_path(model), Model)
        name, at, version = model.rpartition("@")
        numbered = bool(at) and version.isascii() and version.isdigit()
        found = self.each(name=name) if numbered else self.each(name=model, stage="Production")
        async with aclosing(found) as candidates:
            async for candidate in candidates:
                if not numbered or candidate.version == version:
                    return candidate
        raise NotFound("model", hint="`name@3` is a version; a name alone means its version in Production. List them first.")

    async def delete(self, model: str) -> None:
        """Remove a version and its files. Raises: InUse while it is in Production or needed."""
        await self._transport.json(Call("DELETE", await self._path(model)))

    async def transition(self, model: str, stage: str) -> Model:
        """Move a version to `None`, `Staging`, `Production` or `Archived`. Raises: EvaluationNeeded with the numbers."""
        body = {"model": model, "stage": stage}
        return Model(await self._transport.json(Call("POST", "/api/models/transition", body=body, again=True)))

    async def files(self, model: str) -> tuple[ModelFile, ...]:
        """Its files, with sizes and checksums. Raises: ClientError where the server gives a name that is no plain file name."""
        found = tuple([file async for file in self._transport.each(f"{await self._path(model)}/files", ModelFile, limit=None)])
        for file in found:
            _check_name(file.name)
        return found

    async def download(self, model: str, folder: Path, *, on_progress: FileProgress | None = None) -> tuple[Path, ...]:
        """All files into `folder`. Each appears under its name only when whole and checked; a second call goes on."""
        model = await self._id(model)
        files = await self.files(model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClientError(f"The folder cannot be made: {error.strerror}.", hint="Choose another one.", code="file") from None
        paths: list[Path] = []
        for file in files:
            path = folder / file.name
            wanted = Fetch(f"{_path(model)}/files/{quote(file.name, safe='')}", path, file.bytes, file.sha256)
            await fetch(self._transport, wanted, _named(file.name, on_progress))
            paths.append(path)
        return tuple(paths)

    async def _id(self, model: str) -> str:
        return model if ids.is_id(model, ids.MODEL) else (await self.get(model)).id

    async def _path(self, model: str) -> str:
        return _path(await self._id(model))


class Models(Face):
    """`client.models`."""

    list = blocking(AsyncModels.list)
    each = iterating(AsyncModels.each)
    get = blocking(AsyncModels.get)
    delete = blocking(AsyncModels.delete)
    transition = blocking(AsyncModels.transition)
    files = blocking(AsyncModels.files)
    download = blocking(AsyncModels.download)


def _path(model: str) -> str:
    return f"/api/models/{quote(model, safe='')}"


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
