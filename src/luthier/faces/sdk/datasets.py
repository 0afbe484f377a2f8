"""Datasets: upload with progress and checksum, list, download."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal, TypedDict, Unpack
from urllib.parse import quote

from luthier import ids
from luthier.errors import ClientError, NotFound
from luthier.faces.sdk import parts
from luthier.faces.sdk.answers import Answer, Dataset, Page
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.files import Fetch, fetch, outgoing, size_of
from luthier.faces.sdk.transport import Call, Transport

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the bytes in all (None where that is not known)."""


class Checks(TypedDict, total=False):
    """How an upload is checked, where that is not the usual way."""

    against: Sequence[str]
    """Datasets, by id or name@version, that it should share no row with."""
    drop_bad_rows: bool
    """Leave bad rows out, instead of refusing the file."""
    mapping: Mapping[str, str] | str | None
    """Fields that are read from others: `{"prompt": "question"}`, or as text, `prompt=question,completion=answer`."""


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
        **checks: Unpack[Checks],
    ) -> Dataset:
        """Send a file (or an open binary stream) and return the new version; `report` says what validation saw.

        A file is hashed first and the server checks the hash; of a stream or FIFO the answer's hash is checked here.
        Retries of a file carry one Idempotency-Key, so a lost answer never makes a second version. A file above 16 MiB (without
        a key of yours) goes in parts: a broken connection goes on where it ended, and so does a second call for the same file.
        Raises: DatasetRejected or Invalid with the findings in `details`; ClientError where the file changes meanwhile.
        """
        bytes_out = await outgoing(source, on_progress)
        query = {
            "name": name or bytes_out.name,
            "sha256": bytes_out.sha256,
            "drop_bad_rows": "true" if checks.get("drop_bad_rows") else None,
        }
        query["map"] = _written(checks.get("mapping"))
        query["against"] = ",".join([await self.id_of(each) for each in checks.get("against", ())]) or None
        if idempotency_key is None and (bytes_out.size or 0) > parts.FROM_BYTES:
            return Dataset(await parts.send_in_parts(self._transport, bytes_out, query))
        headers = {"content-type": "application/octet-stream", "accept": "application/json"}
        headers["idempotency-key"] = idempotency_key or str(uuid.uuid4())
        if bytes_out.size is not None:
            headers["content-length"] = str(bytes_out.size)
        call = Call("POST", "/api/datasets", query, headers=headers, content=bytes_out.chunks, again=not bytes_out.once)

        dataset = Dataset(await (self._transport.once(call) if bytes_out.once else self._transport.json(call)))
        if dataset.get("sha256", bytes_out.sent_sha256) != bytes_out.sent_sha256:
            raise ClientError("The server stored other bytes than were sent.", hint=f"Delete {dataset.id} and upload it again.")
        return dataset

    async def import_from(
        self,
        source: str,
        *,
        file: str | None = None,
        revision: str | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
        **checks: Unpack[Checks],
    ) -> Dataset:
        """Have the server fetch a hub dataset (`openai/gsm8k`), an object of a bucket (`s3://...`, `gs://...`) or the https
        address of a file, and return the new version. A large one is `validating`: `wait` for it.

        Retries carry one Idempotency-Key, so a lost answer never makes a second version.
        Raises: Invalid `source`; DatasetRejected with the findings in `details`.
        """
        body = {"source": source, "file": file, "revision": revision, "name": name, "map": _written(checks.get("mapping"))}
        body |= {"drop_bad_rows": checks.get("drop_bad_rows", False)}
        against = [await self.id_of(each) for each in checks.get("against", ())]
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        # The server fetches a small file first, perhaps from a slow place.
        call = Call("POST", "/api/datasets/import", body={**body, "against": against}, headers=headers, again=True, work_s=1800)
        return Dataset(await self._transport.json(call))

    async def list(self, *, limit: int = 50, after: str | None = None, name: str | None = None) -> Page[Dataset]:
        """One page of your team's datasets (or of one name's versions), newest first."""
        return await self._transport.page("/api/datasets", Dataset, limit=limit, after=after, name=name)

    def each(self) -> AsyncGenerator[Dataset]:
        """All of your team's datasets, newest first."""
        return self._transport.each("/api/datasets", Dataset)

    async def get(self, dataset_id: str) -> Dataset:
        """One version, with its report."""
        return await self._transport.get(_path(dataset_id), Dataset)

    async def delete(self, dataset_id: str) -> None:
        """Remove a version. Raises: InUse while a job needs it."""
        await self._transport.json(Call("DELETE", _path(dataset_id)))

    async def id_of(self, ref: str) -> str:
        """The id of a version that is named by its id, `name@version`, or its name (then the newest). Raises: NotFound."""
        if ids.is_id(ref, ids.DATASET):
            return ref
        name, mark, version = ref.rpartition("@")
        name, version = (name, version) if mark and version.isdecimal() else (ref, "")
        async for dataset in self._transport.each("/api/datasets", Dataset, name=name):
            if not version or str(dataset.version) == version:
                return dataset.id
        raise NotFound("dataset")

    async def samples(self, dataset_id: str, *, by: str = "random", n: int = 5, seed: int = 0) -> Answer:
        """Some rows: `random` (the same for the same seed), `longest`, `shortest` or `flagged`; in `data`."""
        path = f"{_path(dataset_id)}/samples"
        return await self._transport.get(path, Answer, by=by, n=n, seed=seed)

    async def preview(
        self, dataset_id: str, *, base_model: str | None = None, method: str | None = None, **wish: str | int | None
    ) -> Answer:
        """What will be learned: rows in `data` with their tokens, of each `text`, `loss` and `cut`; beside them `packing`.

        wish: `rows`, or `line` to begin at; `max_seq_len`, `batch_size` and `packing` (`"false"`) as the run will have them.
        """
        path = f"{_path(dataset_id)}/preview"
        return await self._transport.get(path, Answer, base_model=base_model, method=method, **wish)

    async def distributions(self, dataset_id: str) -> Answer:
        """How tokens, turns, languages, labels, sources and loss spread over the rows: histograms for charts."""
        return await self._transport.get(f"{_path(dataset_id)}/distributions", Answer)

    async def diff(self, old: str, new: str) -> Answer:
        """What became of the rows of one version in another, named by id or name@version."""
        old_id, new_id = await self.id_of(old), await self.id_of(new)
        return await self._transport.get(f"{_path(old_id)}/diff/{quote(new_id, safe='')}", Answer)

    async def fix(self, dataset_id: str) -> Answer:
        """Make the next version from the good rows of this one: `dataset`, `dropped_rows`, `counts`, `dropped`."""
        return Answer(await self._transport.json(Call("POST", f"{_path(dataset_id)}/fix")))

    async def wait(self, dataset_id: str, *, poll_s: float = 0.5, on_progress: Progress | None = None) -> Dataset:
        """The dataset, once it is no longer being fetched or validated. `on_progress` hears how much of it is there, or read."""
        while (dataset := await self.get(dataset_id)).state == "validating":
            arriving = dataset.get("arriving")
            if arriving and on_progress:
                on_progress(arriving["bytes"], arriving["total"])
            elif on_progress and (report := dataset.get("report")):
                on_progress(report["read_bytes"] or 0, report["bytes"])
            await self._transport.retry.pause(poll_s)
        return dataset

    async def download(
        self, dataset_id: str, to: Path, *, form: Literal["original", "jsonl"] = "original", on_progress: Progress | None = None
    ) -> Path:
        """The file as it was uploaded (or its rows as they are kept, `form="jsonl"`) as `to`; taken up where it broke off,
        and checked. Raises: DatasetNotReady."""
        dataset = await self.get(dataset_id)
        wanted = Fetch(f"{_path(dataset_id)}/download", to, dataset.bytes, dataset.get("sha256") or "")
        if form == "jsonl":
            wanted = replace(wanted, sha256=dataset.get("rows_sha256") or "", query={"format": form})
            wanted = replace(wanted, size=await size_of(self._transport, wanted))
        await fetch(self._transport, wanted, on_progress)
        return to


class Datasets(Face):
    """`client.datasets`."""

    upload = blocking(AsyncDatasets.upload)
    import_from = blocking(AsyncDatasets.import_from)
    list = blocking(AsyncDatasets.list)
    each = iterating(AsyncDatasets.each)
    get = blocking(AsyncDatasets.get)
    delete = blocking(AsyncDatasets.delete)
    id_of = blocking(AsyncDatasets.id_of)
    samples = blocking(AsyncDatasets.samples)
    preview = blocking(AsyncDatasets.preview)
    distributions = blocking(AsyncDatasets.distributions)
    diff = blocking(AsyncDatasets.diff)
    fix = blocking(AsyncDatasets.fix)
    wait = blocking(AsyncDatasets.wait)
    download = blocking(AsyncDatasets.download)


def _written(mapping: Mapping[str, str] | str | None) -> str | None:
    if mapping is None or isinstance(mapping, str):
        return mapping
    return ",".join(f"{target}={source}" for target, source in mapping.items())


def _path(dataset_id: str) -> str:
    return f"/api/datasets/{quote(dataset_id, safe='')}"
