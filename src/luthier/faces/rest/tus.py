"""Uploads in parts: tus 1.0 (creation, checksum, expiration, termination), and one route that makes the dataset.

https://tus.io/protocols/resumable-upload. Of a refusal the body is ours; a wrong checksum is a 422, where tus has 460.
"""

from __future__ import annotations

import base64
import binascii
from email.utils import format_datetime
from typing import Annotated

from fastapi import Header, Request, Response
from pydantic import BeforeValidator

from luthier.datasets.types import Dataset
from luthier.datasets.uploads import Announced, Part, Partial
from luthier.errors import (
    BadRequest,
    DatasetRejected,
    FieldInvalid,
    Gone,
    ModelNotAllowed,
    NotFound,
    OffsetMismatch,
    StorageFull,
    TooLarge,
    TooMany,
    UnsupportedType,
    WrongState,
)
from luthier.faces.rest.body import media_type, refuse_encoding
from luthier.faces.rest.errors import problems
from luthier.faces.rest.forms import ids_in
from luthier.faces.rest.uploads import Receiver
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, UploadId, plain_number, router

routes = router("/api/uploads", "uploads")

_TUS = {"tus-resumable": "1.0.0"}
_EXTENSIONS = "creation,checksum,expiration,termination"
_PLAIN = ("name", "filename", "sha256", "base_model", "against", "map", "drop_bad_rows")
Length = Annotated[
    int, BeforeValidator(plain_number), Header(alias="Upload-Length", ge=1, description="Bytes of the whole file.")
]
Offset = Annotated[
    int, BeforeValidator(plain_number), Header(alias="Upload-Offset", ge=0, description="Where these bytes begin.")
]
Metadata = Annotated[
    str,
    Header(
        alias="Upload-Metadata",
        description=f"Pairs of a name and a value in base64, with commas between. Names: {', '.join(_PLAIN)}; sha256 is needed.",
    ),
]
Checksum = Annotated[str | None, Header(alias="Upload-Checksum", description="`sha256 <base64>` of the bytes of this request.")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "{}\n"}},
    }
}


@routes.options("", status_code=204)
def capabilities(platform: CurrentPlatform) -> Response:
    """What of tus is spoken here."""
    facts = {"tus-version": "1.0.0", "tus-extension": _EXTENSIONS, "tus-checksum-algorithm": "sha256"}
    return Response(None, 204, {**_TUS, **facts, "tus-max-size": str(platform.settings.max_upload_bytes)})


@routes.post("", status_code=201, responses=problems(BadRequest, FieldInvalid, TooLarge, TooMany, StorageFull))
def begin(actor: CurrentActor, platform: CurrentPlatform, response: Response, length: Length, metadata: Metadata) -> Partial:
    """Announce a file. Announced again, it is the same upload, with the bytes that it has."""
    upload = platform.uploads.begin(actor, _announced(length, metadata))
    response.headers.update({"location": f"/api/uploads/{upload.id}", **_facts(upload)})
    return upload


@routes.head("/{upload_id}", response_class=Response, responses=problems(NotFound, Gone))
def show(upload_id: UploadId, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """How many bytes are here."""
    upload = platform.uploads.show(actor, upload_id)
    return Response(None, 200, {**_facts(upload), "cache-control": "no-store"})


@routes.patch(
    "/{upload_id}",
    status_code=204,
    openapi_extra=_BODY,
    responses=problems(NotFound, Gone, OffsetMismatch, BadRequest, FieldInvalid, TooLarge, UnsupportedType, StorageFull),
)
async def append(
    request: Request,
    upload_id: UploadId,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    offset: Offset,
    checksum: Checksum = None,
) -> Response:
    """Send bytes that follow those that are here. What came before a connection broke stays, unless a checksum came with it."""
    refuse_encoding(request)
    if media_type(request).get_content_type() != "application/offset+octet-stream":
        raise UnsupportedType("Parts of an upload are `application/offset+octet-stream`.", hint="Set the Content-Type.")
    digest, uploads = _digest(checksum), platform.uploads
    receiver: Receiver = request.app.state.receiver
    upload = await receiver.pass_on(
        request, lambda size, chunks: uploads.append(actor, upload_id, Part(offset, chunks, size, digest))
    )
    return Response(None, 204, _facts(upload))


@routes.post(
    "/{upload_id}/dataset",
    status_code=201,
    responses=problems(NotFound, Gone, WrongState, DatasetRejected, FieldInvalid, ModelNotAllowed, TooLarge, StorageFull),
)
def finish(response: Response, upload_id: UploadId, actor: CurrentActor, platform: CurrentPlatform) -> Dataset:
    """Make the dataset of a complete upload; the answer is that of `POST /api/datasets`. Asked again, it is the same dataset."""
    dataset = platform.uploads.finish(actor, upload_id)
    response.headers["location"] = f"/api/datasets/{dataset.id}"
    return dataset


@routes.delete("/{upload_id}", status_code=204, responses=problems(NotFound, Gone))
def delete(upload_id: UploadId, actor: CurrentActor, platform: CurrentPlatform) -> Response:
    """Give an upload up."""
    platform.uploads.delete(actor, upload_id)
    return Response(None, 204, _TUS)


def _facts(upload: Partial) -> dict[str, str]:
    expires = {"upload-expires": format_datetime(upload.expires_at, usegmt=True)}
    return {**_TUS, **expires, "upload-offset": str(upload.offset), "upload-length": str(upload.length)}


def _announced(length: int, metadata: str) -> Announced:
    given: dict[str, str] = {}
    for pair in metadata.split(","):
        name, _, value = pair.strip().partition(" ")
        if name not in _PLAIN or name in given:
            raise FieldInvalid(f"Upload-Metadata names {name[:40]!r}, which is unknown or there twice.", param="Upload-Metadata")
        given[name] = _decoded(value)
    if given.get("drop_bad_rows", "false") not in {"true", "false"}:
        raise FieldInvalid("`drop_bad_rows` is `true` or `false`.", param="drop_bad_rows")
    return Announced(
        length=length,
        sha256=given.get("sha256", ""),
        name=given.get("name"),
        file_name=given.get("filename"),
        base_model=given.get("base_model"),
        against=ids_in(given.get("against")),
        mapping=given.get("map"),
        drop_bad_rows=given.get("drop_bad_rows") == "true",
    )


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise FieldInvalid("A value of Upload-Metadata is not UTF-8 in base64.", param="Upload-Metadata") from None


def _digest(checksum: str | None) -> bytes | None:
    if checksum is None:
        return None
    kind, _, value = checksum.partition(" ")
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if kind != "sha256" or len(digest) != 32:
        raise BadRequest("The Upload-Checksum is not `sha256` and 32 bytes in base64.", hint="Other kinds are not known here.")
    return digest
