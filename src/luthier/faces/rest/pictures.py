"""Ask the classifier in Production about a picture file: unpacked in threads of its own, and only so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Query, Request, Response

from luthier.errors import BadRequest, FieldInvalid, TooLarge, TooMany, UnsupportedType
from luthier.faces.rest.access import ViewersToo
from luthier.faces.rest.body import is_json, media_type, read_limited, refuse_encoding, strict_json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.forms import Form
from luthier.faces.rest.predict import REFUSALS
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, router
from luthier.serving import pictures
from luthier.serving.types import DEFAULT_CLASSIFIER, Prediction
from luthier.values import Name

R = TypeVar("R")

_AT_A_TIME = 2
"""Pictures that are unpacked at a time: one takes up to 140 MB meanwhile."""
_MOST_INSIDE = 32
"""Pictures that are sent, wait or are unpacked: each holds its bytes, and those around them in its body."""
_MOST_BODY = pictures.MOST_BYTES * 4 // 3 + 64 * 1024
"""The largest file in base64, or in a form, and what stands around it."""
_SMALLER = "Scale the picture down before you send it."
_PICTURES = ("image/png", "image/jpeg", "application/octet-stream")


class Desk:
    """Where pictures are taken in: none waits without a place, and none is unpacked on the event loop."""

    def __init__(self, at_a_time: int = _AT_A_TIME, most_inside: int = _MOST_INSIDE) -> None:
        self._pool = ThreadPoolExecutor(at_a_time, "pictures")
        self._most = most_inside
        self._inside = 0

    async def run(self, read: Callable[[], Awaitable[bytes]], work: Callable[[bytes], R]) -> R:
        """What `work` makes of what `read` brings. Called on the event loop alone. Raises: TooMany where no place is left."""
        if self._inside >= self._most:
            raise TooMany(f"{self._inside} pictures are here already.", retry_after_s=1)
        self._inside += 1
        try:
            data = await read()
            return await asyncio.wrap_future(self._pool.submit(copy_context().run, work, data))
        finally:
            self._inside -= 1


routes = router("/api/predict", "predict")

_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}, "example": "the bytes of the file"}
_WHITE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
_BASE64 = {"type": "string", "description": "The file in base64, or a `data:` URL of it."}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"A PNG or a JPEG of at most {pictures.MOST_BYTES:,} bytes and {pictures.MOST_PIXELS:,} pixels: as it is, "
        "as the part `file` of a form, or as JSON in base64.",
        "content": {
            "image/png": _FILE,
            "image/jpeg": _FILE,
            "multipart/form-data": {
                "example": {"file": "the bytes of the file"},
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                },
            },
            "application/json": {
                "schema": {"type": "object", "required": ["picture"], "properties": {"picture": _BASE64}},
                "example": {"picture": _WHITE},
            },
        },
    }
}
_Digit = Query(description="It is a digit, to be made as MNIST's are: light on dark, 20 of 28 high, centred by its mass.")


@routes.post(
    "/picture",
    dependencies=[ViewersToo],
    response_model=Prediction,
    openapi_extra=_BODY,
    responses=REFUSALS | problems(TooLarge, UnsupportedType, BadRequest),
)
async def predict_picture(
    request: Request,
    actor: CurrentActor,
    platform: CurrentPlatform,
    *,
    model_name: Annotated[Name, Query(description="Whose version in Production answers.")] = DEFAULT_CLASSIFIER,
    digit: Annotated[bool, _Digit] = False,
) -> Response:
    """The likeliest class of a picture, and how likely each class is. It is scaled to the greys that the model reads."""
    unpack = _unpacking(request)
    predictions = platform.predictions

    def look(body: bytes) -> Any:
        return predictions.look_at(actor, model_name, unpack(body), digit=digit)

    asked = await request.app.state.desk.run(partial(read_limited, request, _MOST_BODY, _SMALLER), look)
    return Response(await request.app.state.hall.answer(actor, asked), media_type="application/json")


def _unpacking(request: Request) -> Callable[[bytes], bytes]:
    """How the file is taken out of a body of this type. Raises: UnsupportedType, BadRequest."""
    refuse_encoding(request)
    message = media_type(request)
    kind = message.get_content_type() if request.headers.get("content-type") else ""
    if kind in _PICTURES:
        return _checked
    if is_json(request):
        return lambda body: _checked(_from_json(body))
    if kind != "multipart/form-data":
        raise UnsupportedType(
            "The body is of a type that this route does not read.",
            hint=f"Send the file as one of {', '.join(_PICTURES)}, as a form, or in base64 as JSON.",
        )
    boundary = message.get_param("boundary")
    if not boundary:
        raise BadRequest("The Content-Type of the form names no boundary.", hint="Let your HTTP client write it.")
    return lambda body: _checked(Form(str(boundary), iter((body,)), known=frozenset()).file())


def _from_json(body: bytes) -> bytes:
    said = orjson.loads(strict_json(body).data)
    if not isinstance(said, dict) or said.keys() != {"picture"} or not isinstance(said["picture"], str):
        raise FieldInvalid("The body is not one `picture` in base64.", hint='`{"picture": "iVBORw0KGgo..."}`', param="picture")
    return pictures.from_base64(said["picture"])


def _checked(data: bytes) -> bytes:
    if len(data) > pictures.MOST_BYTES:
        raise TooLarge(f"The picture has {len(data):,} bytes; at most {pictures.MOST_BYTES:,} are read.", hint=_SMALLER)
    return data
