"""Datasets: upload, list, show, delete, download."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
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
    RangeInvalid,
    StorageFull,
    TooLarge,
    UnsupportedType,
)
from luthier.faces.rest.errors import problems
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.uploads import Incoming
from luthier.faces.rest.wire import After, ChangingActor, CurrentActor, CurrentPlatform, DatasetId, Limit, router
from luthier.values import Page

routes = router("/api/datasets", "datasets")

_ROW = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}\n'
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, or a form with one `file` (fields before it: `name`, `sha256`, `base_model`).",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "format": "binary"}, "example": _ROW},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "name": {"type": "string"},
                        "sha256": {"type": "string"},
                        "base_model": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}
# Uploads wait for their senders; a pool of their own keeps slow ones from holding up everybody's reads.
_AT_ONCE = anyio.CapacityLimiter(16)

Named = Annotated[str | None, Query(max_length=4096, description="Name of the dataset; by default the file's name.")]
Hash = Annotated[str | None, Query(max_length=200, description="sha256 of the file: refused where it does not match.")]
BaseName = Annotated[str | None, Query(max_length=200, description="Whose tokenizer and context measure the rows.")]
FileName = Annotated[str | None, Header(max_length=4096, description="Name of the file, where it is sent raw.")]


@routes.post(
    "",
    status_code=201,
    openapi_extra=_BODY,
    responses=problems(BadRequest, TooLarge, UnsupportedType, DatasetRejected, FieldInvalid, StorageFull),
)
async def upload(
    request: Request,
    actor: ChangingActor,
    platform: CurrentPlatform,
    name: Named = None,
    sha256: Hash = None,
    base_model: BaseName = None,
    x_filename: FileName = None,
) -> Dataset:
    """Upload JSON lines and get the report: rows, tokens, lengths, what was refused. A name again makes its next version."""
    incoming = Incoming(request, platform.settings.max_upload_bytes)
    given = Upload(chunks=(), name=name, file_name=x_filename, sha256=sha256, base_model=base_model)
    file = await incoming.open(given)
    return await anyio.to_thread.run_sync(lambda: platform.datasets.upload(actor, file()), limiter=_AT_ONCE)


@routes.get("", responses=problems(CursorInvalid, FieldInvalid))
def list_datasets(actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None) -> Page[Dataset]:
    """All datasets of the caller's team, newest first."""
    return platform.datasets.list(actor, after=after, limit=limit)


@routes.get("/{dataset_id}", responses=problems(NotFound, Gone))
def show(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform) -> Dataset:
    """One dataset version with its report."""
    return platform.datasets.get(actor, dataset_id)


@routes.delete("/{dataset_id}", status_code=204, responses=problems(NotFound, Gone, InUse))
def delete(dataset_id: DatasetId, actor: ChangingActor, platform: CurrentPlatform) -> None:
    """Delete one version and its files. Refused while a run needs it."""
    platform.datasets.delete(actor, dataset_id)


_BYTES = {200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


@routes.get("/{dataset_id}/download", response_class=Response, responses={**problems(NotFound, Gone, RangeInvalid), **_BYTES})
def download(dataset_id: DatasetId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """The file as it was uploaded, byte for byte; one `Range` at a time."""
    dataset, file = platform.datasets.open(actor, dataset_id)
    return file_answer(request, lambda: file, size=dataset.bytes, name=f"{dataset.name}.jsonl", tag=dataset.sha256)
