"""`/v1/files`: datasets, as files with the purpose fine-tune."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response

from luthier.datasets.types import Upload
from luthier.errors import (
    CursorInvalid,
    DatasetRejected,
    FieldInvalid,
    Gone,
    InUse,
    NotFound,
    RangeInvalid,
    StorageFull,
    TooLarge,
)
from luthier.faces.rest.openai import results
from luthier.faces.rest.openai.requests import checked_purpose
from luthier.faces.rest.openai.routes import AfterId, Listing, PageLimit, listing, refusals, router
from luthier.faces.rest.openai.shapes import Deleted, FileObject, file_of
from luthier.faces.rest.streaming import file_answer
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, IdempotencyKey

routes = router("files (OpenAI)")

FileId = Annotated[str, Path(description="Id of a file, or of the result file of a run.")]
_FIELDS = {"purpose": {"type": "string", "enum": ["fine-tune"]}, "file": {"type": "string", "format": "binary"}}
_FORM: dict[str, Any] = {"schema": {"type": "object", "required": ["file", "purpose"], "properties": _FIELDS}}
_ROWS = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
_FORM["example"] = {"purpose": "fine-tune", "file": _ROWS}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}}


@routes.post("/files", openapi_extra=_BODY, responses=refusals(DatasetRejected, FieldInvalid, TooLarge, StorageFull))
async def create(request: Request, actor: CurrentActor, key: IdempotencyKey) -> FileObject:
    """Upload a file of rows. A small one is checked at once, and refused with the first line that is wrong."""
    taken = await request.app.state.receiver.take(request, actor, Upload(()), key, {"purpose": checked_purpose})
    return file_of(taken.dataset)


@routes.get("/files", responses=refusals(CursorInvalid, FieldInvalid))
def list_files(
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    limit: PageLimit = 200,
    after: AfterId = None,
    purpose: Annotated[str | None, Query(max_length=64, description="Only `fine-tune` has a list.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By time.")] = "desc",
) -> Listing[FileObject]:
    """The team's files, newest first. Result files are named by their job."""
    if purpose not in (None, "fine-tune"):
        return listing([], [], more=False)
    if order == "asc":
        return _oldest_first(list(_all_files(platform, actor)), after, limit)
    found = platform.datasets.list(actor, after=after, limit=min(limit, 200))
    files = [file_of(dataset) for dataset in found.data]
    return listing(files, [file.id for file in files], more=found.next_cursor is not None)


def _all_files(platform: CurrentPlatform, actor: CurrentActor) -> Iterator[FileObject]:
    """Newest first."""
    after: str | None = None
    while True:
        page = platform.datasets.list(actor, after=after, limit=200)
        yield from map(file_of, page.data)
        after = page.next_cursor
        if after is None:
            return


def _oldest_first(newest_first: list[FileObject], after: str | None, limit: int) -> Listing[FileObject]:
    files = newest_first[::-1]
    ids = [file.id for file in files]
    if after is not None and after not in ids:
        raise CursorInvalid
    rest = files if after is None else files[ids.index(after) + 1 :]
    return listing(rest[:limit], [file.id for file in rest[:limit]], more=len(rest) > limit)


@routes.get("/files/{file_id}", responses=refusals(NotFound, Gone))
def retrieve(file_id: FileId, actor: CurrentActor, platform: CurrentPlatform) -> FileObject:
    """One file, and whether it can be trained on; or what the steps of a run measured."""
    if results.is_result(file_id):
        return results.found(platform, actor, file_id)[0]
    return file_of(platform.datasets.get(actor, file_id))


@routes.get("/files/{file_id}/content", response_class=Response, responses=refusals(NotFound, Gone, RangeInvalid))
def content(file_id: FileId, actor: CurrentActor, platform: CurrentPlatform, request: Request) -> Response:
    """The bytes as they were uploaded, or one range of them; or the steps of a run, as CSV."""
    if results.is_result(file_id):
        return results.answer(*results.found(platform, actor, file_id))
    dataset = platform.datasets.get(actor, file_id)
    opened = platform.datasets.open(actor, file_id)
    return file_answer(request, opened, size=dataset.bytes, name=dataset.name, tag=dataset.sha256 or dataset.id)


@routes.delete("/files/{file_id}", responses=refusals(NotFound, Gone, InUse))
def delete(file_id: FileId, actor: CurrentActor, platform: CurrentPlatform) -> Deleted:
    """Remove a file. Refused while a run needs it."""
    platform.datasets.delete(actor, file_id)
    return Deleted(id=file_id, object="file")
