"""A file on its way in: raw, or the one file of a form. Counted and handed on chunk by chunk, never held whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any

import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from luthier.datasets.types import Upload
from luthier.errors import BadRequest, FieldInvalid, LuthierError, TooLarge
from luthier.faces.rest.body import media_type, refuse_encoding
from luthier.faces.rest.validation import did_you_mean, shown

_HAND_OVER_BYTES = 1024 * 1024
_MAX_PARTS = 8
_MAX_HEADER_BYTES = 8192
_MAX_FIELD_BYTES = 4096
_FIELDS = ("name", "sha256", "base_model")


class Incoming:
    """The body of one upload. `open()` reads up to the first byte of the file, and so knows the form's fields."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._parts = _Parts(request) if media_type(request).get_content_maintype() == "multipart" else None
        self._chunks = self._read()

    async def open(self, given: Upload) -> Callable[[], Upload]:
        """What to call, in a worker thread, for the upload. Raises: TooLarge before a byte was read, UnsupportedType."""
        refuse_encoding(self._request)
        declared = self._request.headers.get("content-length", "")
        # A form is a little larger than its file.
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_bytes + _MAX_PARTS * _MAX_HEADER_BYTES:
            raise self._too_large()
        first = await anext(self._chunks, b"")
        fields = self._parts.fields if self._parts else {}
        file_name = self._parts.file_name if self._parts else given.file_name
        return partial(
            Upload,
            chunks=self._in_thread(first),
            name=fields.get("name", given.name),
            file_name=file_name,
            sha256=fields.get("sha256", given.sha256),
            base_model=fields.get("base_model", given.base_model),
        )

    def _in_thread(self, first: bytes) -> Iterator[bytes]:
        """The file for a synchronous reader: each chunk is fetched on the event loop while the thread waits."""
        chunk = first
        while chunk:
            yield chunk
            chunk = anyio.from_thread.run(self._next)

    async def _next(self) -> bytes:
        return await anext(self._chunks, b"")

    async def _read(self) -> AsyncGenerator[bytes]:
        size = 0
        waiting = bytearray()
        try:
            async for received in self._request.stream():
                waiting += self._parts.feed(received) if self._parts else received
                size_now = size + len(waiting)
                if size_now > self._max_bytes:
                    raise self._too_large()
                if len(waiting) >= _HAND_OVER_BYTES or (waiting and size == 0):
                    size = size_now
                    yield bytes(waiting)
                    waiting.clear()
        except ClientDisconnect:
            raise BadRequest("The upload ended before its last byte.", hint="Send it again; nothing was kept.") from None
        if waiting:
            yield bytes(waiting)
        if self._parts:
            self._parts.finish()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The file is larger than {self._max_bytes:,} bytes.", hint="Split it, or raise LUTHIER_MAX_UPLOAD_BYTES.")


class _Parts:
    """`multipart/form-data` with one `file`: small fields first, then the file."""

    def __init__(self, request: Request) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self._out = bytearray()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._parts = 0
        self._part = ""
        self._value = bytearray()
        self._saw_file = False
        self._ended = False
        self._parser = self._new_parser(request.headers["content-type"])

    def _new_parser(self, content_type: str) -> MultipartParser:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _broken("the header names no boundary")
        callbacks: Any = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": partial(self._on_header, 0),
            "on_header_value": partial(self._on_header, 1),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError:
            raise _broken("its boundary is too long") from None

    def feed(self, data: bytes) -> bytes:
        """The file's bytes among `data`. Raises: BadRequest, FieldInvalid."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _broken("a part does not follow its boundary") from None
        found = bytes(self._out)
        self._out.clear()
        return found

    def finish(self) -> None:
        """Raises: BadRequest where the last boundary is missing, FieldInvalid where the file is."""
        if not self._ended:
            raise _broken("its last boundary is missing")
        if not self._saw_file:
            raise _field("The form has no part named `file`.", "file", "missing")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _broken(f"it has more than {_MAX_PARTS} parts")
        self._headers.clear()
        self._header_bytes = 0
        self._value.clear()

    def _on_header(self, which: int, data: bytes, start: int, end: int) -> None:
        self._header_bytes += end - start
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise _broken(f"the headers of a part are larger than {_MAX_HEADER_BYTES:,} bytes")
        self._header[which].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part == "file":
            if self._saw_file:
                raise _field("The form has a second part named `file`.", "file", "duplicate_key")
            self._saw_file = True
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or None
        elif self._part not in _FIELDS:
            meant = did_you_mean(self._part, ("file", *_FIELDS))
            raise _field(f"There is no such form field.{meant}", shown(self._part), "extra_forbidden")
        elif self._saw_file:
            raise _field(f"`{self._part}` must come before `file`.", self._part, "order")
        elif self._part in self.fields:
            raise _field(f"The form has a second part named `{self._part}`.", self._part, "duplicate_key")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self._out += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise _field(f"`{self._part}` is longer than {_MAX_FIELD_BYTES:,} bytes.", self._part, "too_long")

    def _on_part_end(self) -> None:
        if self._part != "file":
            self.fields[self._part] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True


def _broken(reason: str) -> LuthierError:
    return BadRequest(
        f"The form cannot be read: {reason}.", hint="Send `multipart/form-data` with one part named `file`.", code="multipart_invalid"
    )


def _field(message: str, param: str, code: str) -> LuthierError:
    details = [{"param": param, "message": message, "code": code}]
    hint = "Send `name`, `sha256` or `base_model` first, then one `file`; or give them as query parameters."
    return FieldInvalid(message, param=param, details=details, code=code, hint=hint)
