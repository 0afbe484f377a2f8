"""Datasets: upload, list, show, download, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio.from_thread
import anyio.to_thread
from fastapi import Header, Query, Request, Response

from luthier.datasets.types import Dataset, Upload
from luthier.errors import (
    BadRequest,
    CursorInvalid,
    DatasetRejected,
    FieldInvalid,
    Gone,
    InUse,
    NotFound,
    StorageFull,
    TooLarge,
    UnsupportedType,
)
from luthier.faces.rest.body import media_type, refuse_encoding
from luthier.faces.rest.errors import problems
from luthier.faces.rest.form import Form
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.wire import After, ChangingActor, CurrentActor, CurrentPlatform, DatasetId, Limit, router
from luthier.values import Page

routes = router("/api/datasets", "datasets")

UploadName = Annotated[
    str | None, Query(max_length=4096, description="Versions of a name are numbered; the file's name by default.")
]
Sha256 = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="Of the file; refused where it differs.")]
FileName = Annotated[str | None, Header(alias="X-Filename", max_length=4096)]
_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"name": {"type": "string"}, "file": {"type": "string", "format": "binary"}}}}
UPLOAD_BODY = {"requestBody": {"required": True, "content": {"application/x-ndjson": _FILE, "multipart/form-data": _FORM}}}
UPLOAD_PROBLEMS = problems(BadRequest, DatasetRejected, FieldInvalid, TooLarge, UnsupportedType, StorageFull)


@routes.post("", status_code=201, openapi_extra=UPLOAD_BODY, responses=UPLOAD_PROBLEMS)
async def upload(
    request: Request,
    response: Response,
    actor: ChangingActor,
    platform: CurrentPlatform,
    name: UploadName = None,
    sha256: Sha256 = None,
    x_filename: FileName = None,
) -> Dataset:
    """Check a file and keep it as the next version of its name. Small files answer with their report, large ones `validating`."""
    arriving = await received(request, Upload(chunks=(), name=name, sha256=sha256, file_name=x_filename))
    dataset = await anyio.to_thread.run_sync(platform.datasets.upload, actor, arriving)
    response.headers["location"] = f"/api/datasets/{dataset.id}"
    return dataset


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_datasets(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Dataset]:
    """All dataset versions of the caller's team, newest first."""
    return platform.datasets.list(actor, after=after, limit=limit)


@routes.get("/{dataset_id}", responses=problems(NotFound, Gone))
def show(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> Dataset:
    """One version, with its report."""
    return platform.datasets.get(actor, dataset_id)


@routes.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete(dataset_id: DatasetId, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """Remove one version and its files; refused while a job uses it."""
    platform.datasets.delete(actor, dataset_id)


@routes.get("/{dataset_id}/download", responses=problems(NotFound, Gone))
def download(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """The file as it was uploaded; one byte range is served."""
    dataset = platform.datasets.get(actor, dataset_id)
    return file_answer(
        request, lambda: platform.datasets.open(actor, dataset_id), size=dataset.bytes, name=dataset.name, tag=dataset.sha256
    )


async def received(request: Request, given: Upload) -> Upload:
    """The upload with its bytes attached: the raw body, or the part `file` of a form."""
    refuse_encoding(request)
    if media_type(request).get_content_type() != "multipart/form-data":
        return Upload(_chunks(request.stream()), given.name, given.file_name, given.sha256)
    form = Form(request)
    await form.begin()
    name = given.name or form.fields.get("name")
    return Upload(_chunks(form.data()), name, form.file_name or given.file_name, given.sha256 or form.fields.get("sha256"))


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The stream, read from the worker thread in which the service runs: the next chunk is fetched when it is wanted."""
    while True:
        chunk = anyio.from_thread.run(_next, stream)
        if chunk is None:
            return
        yield chunk


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)
