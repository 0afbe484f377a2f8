"""A `multipart/form-data` body, read as a stream: small fields first, then the one file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from luthier.datasets.types import Upload
from luthier.errors import BadRequest, FieldInvalid
from luthier.faces.rest.validation import did_you_mean, shown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Check = Callable[[str | None], None]
_FIELDS = frozenset({"name", "sha256", "base_model", "against", "drop_bad_rows", "map"})
_MAX_FIELD_BYTES = 4096
_MAX_PARTS = 16
_MOST_IDS = 10


class Form:
    """One body. `upload` reads it up to the file; the rest is read as the upload's chunks are. Beside it stand `known` fields.

    `checks` are for fields of another face: each is called with its field, or None, and may stand before the file or after it;
    with them, what is not known is passed over.
    """

    def __init__(
        self,
        boundary: str,
        body: Iterator[bytes],
        checks: Mapping[str, Check] | None = None,
        known: frozenset[str] = _FIELDS,
    ) -> None:
        self._body = body
        self._known = known
        self._checks = checks
        self._data: deque[bytes] = deque()
        self._fields: dict[str, bytes] = {}
        self._part: str | None = None
        self._parts = 0
        self._file_name: str | None = None
        self._in_file = self._seen_file = self._ended = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        try:
            self._parser = MultipartParser(boundary.encode("latin-1", "replace"), self._callbacks())
        except MultipartParseError:
            raise _broken() from None

    def upload(self, query: Upload) -> Upload:
        """What to store. The query string wins over fields. Raises: BadRequest, FieldInvalid."""
        self._find_file()
        given = {name: value.decode("utf-8", "replace") for name, value in self._fields.items()}
        return Upload(
            chunks=self._chunks(),
            name=query.name if query.name is not None else given.get("name"),
            file_name=self._file_name,
            sha256=query.sha256 if query.sha256 is not None else given.get("sha256"),
            base_model=query.base_model if query.base_model is not None else given.get("base_model"),
            against=query.against or ids_in(given.get("against")),
            drop_bad_rows=query.drop_bad_rows or _yes(given.get("drop_bad_rows", "false")),
            mapping=query.mapping if query.mapping is not None else given.get("map"),
        )

    def file(self) -> bytes:
        """All of the file. Raises: BadRequest, FieldInvalid."""
        self._find_file()
        return b"".join(self._chunks())

    def _find_file(self) -> None:
        while not self._seen_file and self._more():
            pass
        if not self._seen_file:
            raise FieldInvalid("The form has no part `file`.", hint="Send the data as the file part `file`.", param="file")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while self._data:
                yield self._data.popleft()
            if not self._more():
                break
        for name, check in (self._checks or {}).items():
            # At the end: a field may come after the file. What is refused here was not stored yet.
            check(self._fields[name].decode("utf-8", "replace") if name in self._fields else None)

    def _more(self) -> bool:
        chunk = next(self._body, None)
        try:
            if chunk is None:
                if not self._ended:
                    raise _broken()
                return False
            self._parser.write(chunk)
        except MultipartParseError:
            raise _broken() from None
        return True

    # -- what the parser reports ---------------------------------------------------------------------------------------

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._finish,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ended,
            "on_headers_finished": self._opened,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        if self._parts > _MAX_PARTS:
            raise BadRequest(f"The form has more than {_MAX_PARTS} parts.", hint="Send `file`, and at most `name` and `sha256`.")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_ended(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _opened(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part == "file":
            if self._seen_file:
                raise FieldInvalid("The form has two parts `file`.", hint="Upload one file at a time.", param="file")
            self._seen_file = self._in_file = True
            name = options.get(b"filename")
            self._file_name = None if name is None else name.decode("utf-8", "replace")
            return
        if self._checks is not None:
            self._fields[self._part] = b""
            return
        if self._part not in self._known:
            fields = ", ".join(f"`{name}`" for name in sorted(self._known))
            hint = f"A form has `file`, and may have {fields} before it." if fields else "The form has the part `file` alone."
            message = f"There is no such field here.{did_you_mean(self._part, {'file', *self._known})}"
            raise FieldInvalid(message, hint=hint, param=shown(self._part), code="extra_forbidden")
        if self._seen_file:
            # The file is stored while it comes in; what names it must be known by then.
            raise FieldInvalid(
                "A field comes after the file.", hint="Put `file` last, or pass it in the query string.", param=self._part
            )
        if self._part in self._fields:
            raise FieldInvalid("A field stands twice in the form.", hint="Send it once.", param=self._part, code="duplicate_key")
        self._fields[self._part] = b""

    def _take(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._in_file:
            self._data.append(piece)
            return
        field = self._part or ""
        self._fields[field] += piece
        if len(self._fields[field]) > _MAX_FIELD_BYTES:
            raise FieldInvalid(f"A field is longer than {_MAX_FIELD_BYTES} bytes.", hint="Shorten it.", param=field)

    def _finish(self) -> None:
        self._in_file = False

    def _end(self) -> None:
        self._ended = True


def ids_in(text: str | None) -> tuple[str, ...]:
    """Ids with commas between them."""
    found = tuple(filter(None, (part.strip() for part in (text or "").split(","))))
    if len(found) > _MOST_IDS:
        raise FieldInvalid(f"`against` names more than {_MOST_IDS} datasets.", hint="Name fewer.", param="against")
    return found


def _yes(text: str) -> bool:
    if text not in {"true", "false"}:
        raise FieldInvalid("`drop_bad_rows` is neither true nor false.", hint="Write `true` or `false`.", param="drop_bad_rows")
    return text == "true"


def _broken() -> BadRequest:
    return BadRequest("The form cannot be read: a boundary or a header in it is broken.", hint="Send the file as the body.")
