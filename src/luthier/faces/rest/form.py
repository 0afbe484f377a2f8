"""A multipart form, read as it arrives: small fields first, then one file whose bytes are never held as a whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from luthier.errors import BadRequest, FieldInvalid
from luthier.faces.rest.body import media_type

_MAX_FIELDS = 8
_MAX_FIELD_BYTES = 4096
_MAX_HEADER_BYTES = 8192
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Form:
    """`await begin()` reads the fields up to the file; `data()` streams the file; the end of the form is checked."""

    def __init__(self, request: Request) -> None:
        boundary = media_type(request).get_boundary()
        if not boundary:
            raise BadRequest("The multipart body has no boundary.", hint="Let your HTTP client set the Content-Type.")
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self._stream = request.stream()
        self._header = ""
        self._header_bytes = 0
        self._part: str | None = None
        self._in_file = self._file_seen = self._ended = False
        self._field = bytearray()
        self._ready: list[bytes] = []
        self._parser = MultipartParser(
            boundary.encode("latin-1", "replace"),
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header,
                "on_header_value": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def begin(self) -> None:
        """Read up to the file's first bytes. Raises: FieldInvalid where there is none, BadRequest where this is no form."""
        while not self._file_seen and await self._more():
            pass
        if not self._file_seen:
            raise FieldInvalid("The form has no part `file`.", param="file", hint='For example: curl -F "file=@train.jsonl".')

    async def data(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises: BadRequest where the form ends before its closing boundary."""
        more = True
        while more or self._ready:
            ready, self._ready = self._ready, []
            for chunk in ready:
                yield chunk
            more = more and await self._more()
        if not self._ended:
            raise BadRequest("The form ends in the middle of a part.", hint="Send it again, whole.")

    async def _more(self) -> bool:
        chunk = await anext(self._stream, b"")
        if not chunk:
            return False
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadRequest(
                "The body is not the multipart form that its header says.", hint="Let your HTTP client make it."
            ) from None
        return True

    def _on_part(self) -> None:
        self._header, self._part = "", None
        self._field.clear()
        if len(self.fields) >= _MAX_FIELDS:
            raise BadRequest(f"The form has more than {_MAX_FIELDS} parts.", hint="Send `name`, `sha256` and `file`.")

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header_bytes += end - start
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise BadRequest(
                f"The form's part headers have more than {_MAX_HEADER_BYTES:,} bytes.", hint="Use a shorter file name."
            )
        self._header += data[start:end].decode("utf-8", "replace") + "\n"

    def _on_headers(self) -> None:
        given = dict(_PARAMETER.findall(self._header))
        self._part = given.get("name")
        if self._part == "file":
            if self._file_seen:
                raise FieldInvalid("The form has a second part `file`.", param="file", hint="Upload one file a request.")
            self.file_name = given.get("filename")
            self._file_seen = self._in_file = True
        elif self._part not in {"name", "sha256"}:
            raise FieldInvalid(
                "The form has a part that is not known here.", code="extra_forbidden", hint="Send `name`, `sha256`, `file`."
            )
        elif self._file_seen:
            raise FieldInvalid("A field stands after the file.", param=self._part, hint="Put `name` and `sha256` before `file`.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._ready.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            raise FieldInvalid(f"A field has more than {_MAX_FIELD_BYTES:,} bytes.", param=self._part)

    def _on_part_end(self) -> None:
        if not self._in_file and self._part is not None:
            self.fields[self._part] = self._field.decode("utf-8", "replace")
        self._in_file = False

    def _on_end(self) -> None:
        self._ended = True
