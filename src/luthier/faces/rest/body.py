"""Strict JSON: what other readers accept in silence (NaN, a key twice, endless nesting) is refused here, with its name."""

from __future__ import annotations

import email.message
import json
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio
import orjson
from fastapi import Body, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import Example
from fastapi.routing import APIRoute
from pydantic import BaseModel, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from luthier.errors import FieldInvalid, LuthierError, TooLarge, TooSlow, UnsupportedType
from luthier.faces.rest import access
from luthier.faces.rest.validation import did_you_mean, refused, shown, unparsable

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 64
_BODY_S = 10.0
"""The whole of a body of JSON comes within this; each byte of a slow one would hold a connection."""
_MAX_DIGITS = 64
_ELSEWHERE = "Large data goes to POST /api/datasets."
# Always matches from a quote on, to the end if need be: a string that never ends must not be tried again at each quote in it.
_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.|\\\Z)*+(?:"|\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

T = TypeVar("T")


@dataclass(frozen=True)
class RawJson:
    """Bytes that were found to be strict JSON, not yet held against a model."""

    data: bytes


class _FromJson:
    """Validate in pydantic's JSON mode, in which strict means strict JSON: a list is a tuple, a string an enum."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        adapter: TypeAdapter[Any] = TypeAdapter(source)
        model = source if isinstance(source, type) and issubclass(source, BaseModel) else None

        def read(value: Any, _inner: Any) -> Any:
            try:
                return adapter.validate_json(value.data) if isinstance(value, RawJson) else adapter.validate_python(value)
            except ValidationError as error:
                raise refused(error.errors(include_url=False, include_input=False), model=model) from None

        return core_schema.no_info_wrap_validator_function(read, handler(source))


Json = Annotated[T, _FromJson()]
"""`spec: Json[RunSpec]`: the route's body."""


def such_as(**example: object) -> Any:
    """How a body may look, for the API's page: `Annotated[Json[RunSpec], such_as(base_model="luthier/tiny")]`."""
    return shown_as({"example": {"value": example}})


def shown_as(examples: Mapping[str, Mapping[str, Any]], description: str | None = None) -> Any:
    """As `such_as`, for several examples by their names, each a `value` with a `summary`."""
    return Body(description=description, openapi_examples={name: Example(**example) for name, example in examples.items()})


def strict_json(data: bytes) -> RawJson:
    """`data`, if it is one JSON value that every reader reads in the same way. Raises: BadRequest, FieldInvalid."""
    if not data.strip():
        raise unparsable("The body is empty.")
    _check_depth(data)
    clean = _reads(data)
    try:
        # The hooks see what the standard reader would let pass; the text form also finds lines and columns. Reals were seen by
        # then, where the quick reader took all of it.
        reals: dict[str, Any] = {} if clean else {"parse_float": _real}
        json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_constant, parse_int=_whole, **reals)
    except UnicodeDecodeError as error:
        raise unparsable(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise unparsable(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    if rb"\u0000" in data and _NUL.search(data):
        raise _wrong("A string holds the character NUL.", code="nul_character")
    if not clean:
        raise _wrong("A string holds half of a surrogate pair: this is not valid Unicode.", code="bad_unicode")
    return RawJson(data)


def _reads(data: bytes) -> bool:
    """Whether the quick reader takes it: finite numbers, valid Unicode. It does not tell why where it does not."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


class StrictRoute(APIRoute):
    """A route for those who may call it, that reads its JSON body strictly and refuses query parameters that it does not know."""

    reads_yaml = False
    refuses_unknown = True
    """Query parameters that it does not know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = query_names(self.dependant)
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            access.check(request, self.dependencies)
            if self.refuses_unknown:
                _check_query(request, known)
            return await handle(await self.read(request) if takes_body else request)

        return strict

    def check_form(self, request: Request) -> None:
        """What can be told without the body. Raises: UnsupportedType, FieldInvalid."""
        _check_query(request, query_names(self.dependant))
        _media_type(request, yaml=self.reads_yaml)

    async def read(self, request: Request) -> Request:
        """The request with its body checked. Raises: UnsupportedType, TooLarge, BadRequest, FieldInvalid."""
        subtype = _media_type(request, yaml=self.reads_yaml)
        data = await read_limited(request, MAX_BODY_BYTES)
        return _Parsed(request, strict_json(_yaml_as_json(data) if subtype == "yaml" else data))


class YamlRoute(StrictRoute):
    """A route that takes `application/yaml` too."""

    reads_yaml = True


class _Parsed(Request):
    """The request, with its body already read: FastAPI finds the bytes that were checked, not its own reading of them."""

    def __init__(self, request: Request, value: RawJson) -> None:
        headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
        super().__init__({**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}, request.receive)
        self._value = value

    async def body(self) -> bytes:
        return self._value.data

    async def json(self) -> Any:
        return self._value


async def read_limited(request: Request, most: int, hint: str = _ELSEWHERE) -> bytes:
    """The body, refused as soon as it is larger than `most`, whatever its header says. Raises: TooLarge, TooSlow."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
        raise _too_large(most, hint)
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(_BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large(most, hint)
                chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(_BODY_S) from None
    return b"".join(chunks)


def refuse_encoding(request: Request) -> None:
    """Compressed bodies are not read: a small one can hide a huge one. Raises: UnsupportedType."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedType("Bodies with a Content-Encoding are not read.", hint="Send the bytes as they are.")


def media_type(request: Request) -> email.message.Message:
    """The Content-Type header, parsed."""
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    return message


def is_json(request: Request) -> bool:
    """Whether the body says that it is JSON in UTF-8."""
    if request.headers.get("content-type") == "application/json":  # as nearly all say it: parsing takes longer than their body
        return True
    message = media_type(request)
    charset = str(message.get_param("charset") or "utf-8").lower()
    return message.get_content_type() == "application/json" and charset in {"utf-8", "utf8", "us-ascii"}


def _media_type(request: Request, *, yaml: bool) -> str:
    refuse_encoding(request)
    if is_json(request):
        return "json"
    kind = media_type(request).get_content_type() if request.headers.get("content-type") else ""
    if yaml and kind in {"application/yaml", "application/x-yaml", "text/yaml"}:
        return "yaml"
    also = " or `application/yaml`" if yaml else ""
    hint = f"Send `application/json`{also}, in UTF-8."
    raise UnsupportedType("The body is of a type that this route does not read.", hint=hint)


def _yaml_as_json(data: bytes) -> bytes:
    from luthier.jobs import yaml12

    try:
        return json.dumps(yaml12.read_yaml(data), allow_nan=False).encode()
    except (ValueError, TypeError):
        raise _wrong("The document holds a value that JSON cannot, such as NaN.", code="finite_number") from None


def _check_query(request: Request, known: set[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            message = f"There is no such query parameter here.{did_you_mean(name, known)}"
            detail = {"param": shown(name), "message": message, "code": "extra_forbidden"}
            raise FieldInvalid(message, param=shown(name), details=[detail], code="extra_forbidden", hint="See /docs.")
        if names.count(name) > 1:
            raise FieldInvalid("A query parameter stands here twice.", param=name, code="duplicate_key", hint="Send it once.")


def query_names(dependant: Dependant) -> set[str]:
    """The query parameters that a route reads."""
    found = {field.alias for field in dependant.query_params}
    for inner in dependant.dependencies:
        found |= query_names(inner)
    return found


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(_STRINGS.sub(b"", data)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _wrong(f"The body is nested deeper than {MAX_DEPTH} levels.", code="too_deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _wrong("A key stands twice in one object.", code="duplicate_key", param=shown(twice))
    return found


def _constant(_text: str) -> Any:
    raise _wrong("NaN and Infinity are no numbers in JSON.", code="finite_number")


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _wrong("A number is too large.", code="finite_number")
    return number


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _wrong(f"A number has more than {_MAX_DIGITS} digits.", code="number_too_long")
    return int(text)


def _wrong(message: str, *, code: str, param: str | None = None) -> LuthierError:
    details = [{"param": param, "message": message, "code": code}]
    return FieldInvalid(message, param=param, details=details, code=code, hint="Correct the body and send it again.")


def _too_large(most: int, hint: str) -> TooLarge:
    return TooLarge(f"The body is larger than {most:,} bytes.", hint=hint)
