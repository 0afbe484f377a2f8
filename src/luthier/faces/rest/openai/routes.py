"""What the routes under /v1 have in common: unknown fields are passed over and named, lists have OpenAI's frame."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict

from luthier.errors import LuthierError
from luthier.faces.rest.body import StrictRoute, query_names
from luthier.faces.rest.dialect import status_and_code
from luthier.faces.rest.errors import problems
from luthier.faces.rest.validation import shown
from luthier.faces.rest.wire import plain_number

T = TypeVar("T")

PREFIX = "/v1"
IGNORED = "x-ignored-fields"
_MOST_NAMED = 20


class Lenient(BaseModel):
    """A request under /v1: strict in what it knows, silent about what it does not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Listing(BaseModel, Generic[T]):
    """A page of a list. `after` = `last_id` asks for the next one."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


def listing(data: list[T], ids: list[str], *, more: bool) -> Listing[T]:
    """A page, framed by the ids of its first and last entry."""
    return Listing(data=data, has_more=more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


class LenientRoute(StrictRoute):
    """A route that reads JSON strictly, passes over fields that it does not know, and names them in a header."""

    refuses_unknown = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = query_names(self.dependant)
        body = self.body_field.field_info.annotation if self.body_field else None

        async def lenient(request: Request) -> Response:
            response = await handle(request)
            names = {bare for name in request.query_params if (bare := name.partition("[")[0]) not in known}
            names |= set(unread(getattr(request.state, "sent", None), body))
            if names:
                response.headers[IGNORED] = ", ".join(sorted(shown(name) for name in names)[:_MOST_NAMED])
            return response

        return lenient

    async def read(self, request: Request) -> Request:
        checked = await super().read(request)
        request.state.sent = orjson.loads(await checked.body())
        return checked


def refusals(*kinds: type[LuthierError]) -> dict[int | str, dict[str, Any]]:
    """As `problems`, with the statuses and codes that are answered here."""
    return problems(*kinds, as_told=status_and_code)


def router(tag: str) -> APIRouter:
    """Routes of OpenAI's shapes."""
    return APIRouter(prefix=PREFIX, tags=[tag], route_class=LenientRoute)


def unread(value: Any, annotation: Any, path: str = "") -> Iterator[str]:
    """Where `value` has fields that no model of `annotation` reads.

    >>> class Inner(Lenient):
    ...     known: int
    >>> list(unread({"known": 1, "new": 2}, Inner))
    ['new']
    """
    if isinstance(value, list):
        for item in value:
            yield from unread(item, annotation, path)
    if not isinstance(value, dict):
        return
    models = list(_models_in(annotation))
    for name, inner in value.items() if models else ():
        fields = [field for model in models if (field := _field(model, name)) is not None]
        if not fields:
            yield f"{path}{name}"
        for field in fields[:1]:
            yield from unread(inner, field, f"{path}{name}.")


def _field(model: type[BaseModel], name: str) -> Any:
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return field.annotation
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not dict:
        for part in get_args(annotation):
            yield from _models_in(part)


PageLimit = Annotated[int, BeforeValidator(plain_number), Query(ge=1, le=10_000, description="Most entries of one page.")]
AfterId = Annotated[str | None, Query(max_length=200, description="The `last_id` of the page before.")]
