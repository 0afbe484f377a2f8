"""Datasets: upload with progress and checksum, list, download."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable
from os import PathLike
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from luthier.errors import ClientError
from luthier.faces.sdk.answers import Dataset, Page
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.files import Fetch, fetch, outgoing
from luthier.faces.sdk.transport import Call, Transport

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all (None where that is not known)."""


class AsyncDatasets:
    """`client.datasets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def upload(
        self,
        source: str | PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        on_progress: Progress | None = None,
    ) -> Dataset:
        """Send a file (or an open binary stream) and return the new version; `report` says what validation saw.

        A file is hashed first and the server checks the hash; of a stream or FIFO the answer's hash is checked here.
        Retries of a file carry one Idempotency-Key, so a lost answer never makes a second version.
        Raises: DatasetRejected or Invalid with the findings in `details`; ClientError where the file changes meanwhile.
        """
        bytes_out = await outgoing(source, on_progress)
        query = {"name": name or bytes_out.name, "sha256": bytes_out.sha256}
        headers = {"content-type": "application/octet-stream", "accept": "application/json"}
        headers["idempotency-key"] = idempotency_key or str(uuid.uuid4())
        if bytes_out.size is not None:
            headers["content-length"] = str(bytes_out.size)
        call = Call("POST", "/api/datasets", query, headers=headers, content=bytes_out.chunks, again=not bytes_out.once)

        dataset = Dataset(await (self._transport.once(call) if bytes_out.once else self._transport.json(call)))
        if dataset.get("sha256", bytes_out.sent_sha256) != bytes_out.sent_sha256:
            raise ClientError("The server stored other bytes than were sent.", hint=f"Delete {dataset.id} and upload it again.")
        return dataset

    async def list(self, *, limit: int = 50, after: str | None = None) -> Page[Dataset]:
        """One page of your team's datasets, newest first."""
        return await self._transport.page("/api/datasets", Dataset, limit=limit, after=after)

    def each(self) -> AsyncGenerator[Dataset]:
        """All of your team's datasets, newest first."""
        return self._transport.each("/api/datasets", Dataset)

    async def get(self, dataset_id: str) -> Dataset:
        """One version, with its report."""
        return await self._transport.get(_path(dataset_id), Dataset)

    async def delete(self, dataset_id: str) -> None:
        """Remove a version. Raises: InUse while a job needs it."""
        await self._transport.json(Call("DELETE", _path(dataset_id)))

    async def wait(self, dataset_id: str, *, poll_s: float = 0.5) -> Dataset:
        """The dataset, once it is no longer being validated."""
        while (dataset := await self.get(dataset_id)).state == "validating":
            await self._transport.retry.pause(poll_s)
        return dataset

    async def download(self, dataset_id: str, to: Path, *, on_progress: Progress | None = None) -> Path:
        """The file as it was uploaded, as `to`; taken up where it broke off, and checked."""
        dataset = await self.get(dataset_id)
        wanted = Fetch(f"{_path(dataset_id)}/download", to, dataset.bytes, dataset.sha256)
        await fetch(self._transport, wanted, on_progress)
        return to


class Datasets(Face):
    """`client.datasets`."""

    upload = blocking(AsyncDatasets.upload)
    list = blocking(AsyncDatasets.list)
    each = iterating(AsyncDatasets.each)
    get = blocking(AsyncDatasets.get)
    delete = blocking(AsyncDatasets.delete)
    wait = blocking(AsyncDatasets.wait)
    download = blocking(AsyncDatasets.download)


def _path(dataset_id: str) -> str:
    return f"/api/datasets/{quote(dataset_id, safe='')}"
