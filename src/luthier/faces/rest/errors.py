"""The one table from errors to statuses, and the one body that every refusal has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from luthier import errors
from luthier.faces.rest.dialect import Told, retry_headers, told

_LOG = logging.getLogger("luthier.rest")

# Most specific class wins; a new branch of `errors.py` adds its line here. `type` is OpenAI's vocabulary.
STATUS: dict[type[errors.LuthierError], tuple[int, str]] = {
    errors.BadRequest: (400, "invalid_request_error"),
    errors.Unauthenticated: (401, "authentication_error"),
    errors.PaymentRequired: (402, "insufficient_quota"),
    errors.Forbidden: (403, "permission_error"),
    errors.NotFound: (404, "invalid_request_error"),
    errors.TooSlow: (408, "invalid_request_error"),
    errors.Conflict: (409, "invalid_request_error"),
    errors.Gone: (410, "invalid_request_error"),
    errors.TooLarge: (413, "invalid_request_error"),
    errors.UnsupportedType: (415, "invalid_request_error"),
    errors.RangeInvalid: (416, "invalid_request_error"),
    errors.Invalid: (422, "invalid_request_error"),
    errors.TooMany: (429, "rate_limit_error"),
    errors.Unavailable: (503, "server_error"),
    errors.StorageFull: (507, "server_error"),
}

# What routing and the server itself refuse, before any feature was asked.
_ROUTING: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "The request cannot be parsed.", "Check its headers and body."),
    404: ("not_found", "No such route.", "All routes stand at /docs."),
    405: ("method_not_allowed", "This route does not take this method.", "The `allow` header lists those that it takes."),
    413: ("too_large", "The request is too large.", "Send less at a time."),
}


CODE = "luthier.code"
"""Where in the scope of a request stands the code of its refusal, for those that log it."""


class ErrorDetail(BaseModel):
    """One field that was refused."""

    param: str | None = Field(description="Where, e.g. `train.learning_rate`.")
    message: str
    code: str


class ErrorFacts(BaseModel):
    """What happened, and what to do next. All keys are always there."""

    message: str = Field(description="What happened, with numbers.", examples=["No such job."])
    type: str = Field(description="The kind of error, in OpenAI's vocabulary.", examples=["invalid_request_error"])
    code: str = Field(description="Stable name of this error, for programs.", examples=["not_found"])
    param: str | None = Field(description="The field at fault, where there is one.", examples=[None])
    hint: str | None = Field(description="What to do next.", examples=["List what is there with `GET /api/jobs`."])
    details: list[Any] | dict[str, Any] | None = Field(description="Each fault, or the numbers behind it.", examples=[None])
    request_id: str = Field(description="Also in the `x-request-id` header and in the server's log.")


class ErrorBody(BaseModel):
    """The body of every answer of 400 and above."""

    error: ErrorFacts


def status_of(error: errors.LuthierError) -> tuple[int, str]:
    """Status and `type` of an error: those of the nearest class in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500, "server_error"


AsTold = Callable[[int, str], tuple[int, str]]


def _as_it_is(status: int, code: str) -> tuple[int, str]:
    return status, code


def problems(*kinds: type[errors.LuthierError], as_told: AsTold = _as_it_is) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: which errors it answers with, described by their own docstrings.

    as_told: status and code in the route's own words.
    """
    documented: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, code = as_told(next(STATUS[base][0] for base in kind.__mro__ if base in STATUS), kind.code)
        text = f"`{code}`: {(kind.__doc__ or '').strip()}"
        known = documented.setdefault(status, {"model": ErrorBody, "description": ""})
        known["description"] = f"{known['description']}\n\n{text}".strip()
    return documented


def answer(connection: HTTPConnection, error: errors.LuthierError) -> Response:
    """The response to an error that a feature raised."""
    words, facts = _said(connection, error)
    body = {"error": facts, **_budget_keys(error)}
    return JSONResponse(body, words.status, headers={**_headers(error), **retry_headers(error)})


def facts_of(connection: HTTPConnection, error: errors.LuthierError) -> dict[str, Any]:
    """What stands under `error` in the body of a refusal."""
    return _said(connection, error)[1]


def _said(connection: HTTPConnection, error: errors.LuthierError) -> tuple[Told, dict[str, Any]]:
    """An error in the words of the face that was asked, and those that its body has."""
    connection.scope[CODE] = error.error_code
    status, kind = status_of(error)
    words = told(connection.scope["path"], error, status)
    return words, {
        "message": words.message,
        "type": kind,
        "code": words.code,
        "param": words.param,
        "hint": words.hint,
        "details": _plain(error.details),
        "request_id": request_id(connection),
    }


def request_id(connection: HTTPConnection) -> str:
    """The id that the door gave to this request."""
    return str(connection.scope.get("luthier.request_id", ""))


async def on_luthier_error(request: HTTPConnection, error: Exception) -> Response:
    """For FastAPI: what a feature refused."""
    if not isinstance(error, errors.LuthierError):
        raise error
    return answer(request, error)


async def on_routing_error(request: HTTPConnection, error: Exception) -> Response:
    """For FastAPI: what routing refused; the same body as everything else."""
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    code, message, hint = _ROUTING.get(status, ("refused", "The request was refused.", "Check the route at /docs."))
    body = _facts(connection=request, code=code, message=message, hint=hint)
    return JSONResponse(body, status, headers=dict(error.headers or {}))


def on_bug(connection: HTTPConnection, error: Exception) -> Response:
    """What nobody foresaw: logged in full under its request id; the caller sees only the id."""
    _LOG.error("request %s failed", request_id(connection), exc_info=error)
    body = _facts(
        connection=connection,
        kind="server_error",
        code="internal",
        message="Something went wrong on the server; this is our fault.",
        hint="Try again. If it stays, report the request id: the server's log has the cause under it.",
    )
    return JSONResponse(body, 500)


def _facts(
    *, connection: HTTPConnection, code: str, message: str, hint: str, kind: str = "invalid_request_error"
) -> dict[str, Any]:
    connection.scope[CODE] = code
    facts = {"message": message, "type": kind, "code": code, "param": None, "hint": hint, "details": None}
    return {"error": {**facts, "request_id": request_id(connection)}}


def limit_headers(limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    """Where the caller stands with its rate limit, in the names that most clients read."""
    return {"ratelimit-limit": str(limit), "ratelimit-remaining": str(remaining), "ratelimit-reset": str(reset_s)}


def _headers(error: errors.LuthierError) -> dict[str, str]:
    if isinstance(error, errors.Unauthenticated):
        return {"www-authenticate": 'Bearer realm="luthier"'}
    if isinstance(error, errors.RateLimited):
        return {"retry-after": str(error.retry_after_s), **limit_headers(error.limit, 0, error.retry_after_s)}
    if isinstance(error, errors.ServerFull):
        return {"retry-after": str(error.retry_after_s), "connection": "close"}
    if isinstance(error, errors.TooMany | errors.Unavailable):
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, errors.TooSlow):
        return {"connection": "close"}  # what is still to come of the body belongs to nothing
    if isinstance(error, errors.StorageFull):
        return {"retry-after": "30"}
    if isinstance(error, errors.RangeInvalid) and isinstance(error.details, Mapping):
        return {"content-range": f"bytes */{error.details.get('bytes', '*')}"}
    return {}


def _budget_keys(error: errors.LuthierError) -> dict[str, Any]:
    """The five keys that an older client reads from a budget refusal, as numbers."""
    if not isinstance(error, errors.BudgetExceeded):
        return {}
    numbers = error.details if isinstance(error.details, Mapping) else {}
    amounts = {name: float(numbers[f"{name}_usd"]) for name in ("current", "limit", "requested")}
    return {"approved": False, "reason": "Budget exceeded", **amounts}


def _plain(details: Mapping[str, Any] | Sequence[Any] | None) -> Any:
    if details is None:
        return None
    if isinstance(details, BaseModel):
        return details.model_dump(mode="json")
    if isinstance(details, Mapping):
        return {str(name): _value(value) for name, value in details.items()}
    return [_value(value) for value in details]


def _value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
