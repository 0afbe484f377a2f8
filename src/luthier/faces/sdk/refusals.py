"""From the body of a refusal back to the error that the server raised: the same class, message, hint and details."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from luthier import errors
from luthier.errors import ClientError, LuthierError

if TYPE_CHECKING:
    import httpx

_BY_STATUS: dict[int, type[LuthierError]] = {
    400: errors.BadRequest,
    401: errors.Unauthenticated,
    402: errors.PaymentRequired,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.UnsupportedType,
    416: errors.RangeInvalid,
    422: errors.Invalid,
    429: errors.TooMany,
    503: errors.Unavailable,
    507: errors.StorageFull,
}
_MOST_WAIT_S = 3600


def refusal(response: httpx.Response) -> LuthierError:
    """The error that an answer of 300 or above stands for; its body has been read."""
    facts = _facts(response)
    if facts is None:
        return _foreign(response)
    code = _text(facts.get("code")) or "error"
    branch = _BY_STATUS.get(response.status_code, LuthierError)
    kind = _class_of(code, branch)
    error = _made(_kind_of_invalid(facts) if kind is errors.Invalid else kind, facts, code)
    error.request_id = _text(facts.get("request_id")) or response.headers.get("x-request-id")
    if isinstance(error, errors.TooMany | errors.Unavailable):
        error.retry_after_s = retry_after_s(response) or 2
    return error


def retry_after_s(response: httpx.Response) -> int | None:
    """What the server asked for in `Retry-After`, in whole seconds."""
    text = response.headers.get("retry-after", "")
    return min(int(text), _MOST_WAIT_S) if text.isascii() and text.isdigit() and len(text) < 10 else None


def read_object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a good answer. Raises: ClientError where it is something else, e.g. a proxy's login page."""
    value = _read(response)
    if not isinstance(value, dict):
        raise _foreign(response)
    return value


def read_page(response: httpx.Response) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of a list answer, and the cursor of the next one. Short lists come without a page around them."""
    value = _read(response)
    entries, cursor = (value.get("data"), value.get("next_cursor")) if isinstance(value, dict) else (value, None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _foreign(response)
    return entries, _text(cursor)


def unauthenticated(message: str, hint: str) -> errors.Unauthenticated:
    """No usable key on this side; nothing was sent."""
    return errors.Unauthenticated(message, hint=hint)


def message_of(facts: dict[str, Any]) -> str | None:
    """The message of a refusal. Under `/v1` the hint follows in it, for clients that show nothing else."""
    message, hint = _text(facts.get("message")), _text(facts.get("hint"))
    return message.removesuffix(f" {hint}") if message and hint else message


def _made(kind: type[LuthierError], facts: dict[str, Any], code: str) -> LuthierError:
    # Subclasses take the numbers that their message is made of; here the message is made already.
    error = kind.__new__(kind)
    details = facts.get("details")
    LuthierError.__init__(
        error,
        message_of(facts) or "The server refused this, without saying why.",
        hint=_text(facts.get("hint")),
        param=_text(facts.get("param")),
        details=details if isinstance(details, dict | list) else None,
        code=code,
    )
    return error


def _kind_of_invalid(facts: dict[str, Any]) -> type[LuthierError]:
    """These carry the code of what was found first, not that of their class; what they list tells them apart."""
    details = facts.get("details")
    if isinstance(details, dict) and "findings" in details:
        return errors.DatasetRejected
    if isinstance(details, list) and details and all(isinstance(each, dict) and "param" in each for each in details):
        return errors.FieldInvalid
    return errors.Invalid


def _class_of(code: str, branch: type[LuthierError]) -> type[LuthierError]:
    """The class whose `code` this is; some errors carry a finer code than their class, then the status decides."""
    waiting = [branch]
    while waiting:
        kind = waiting.pop()
        if kind.code == code and not issubclass(kind, ClientError | errors.SetupError):
            return kind
        waiting += kind.__subclasses__()
    return branch


def _read(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        raise _foreign(response) from None


def _facts(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    facts = body.get("error") if isinstance(body, dict) else None
    return facts if isinstance(facts, dict) and "message" in facts else None


def _foreign(response: httpx.Response) -> ClientError:
    status = response.status_code
    message = f"What answered is not a Luthier server: status {status}, and not our JSON."
    hint = "Check LUTHIER_API_URL: it is the server's root, e.g. http://127.0.0.1:8000."
    if status in {502, 503, 504}:
        message = f"A proxy answered {status}: it does not reach the Luthier server behind it."
        hint = "Start the server (`luthier up`), or check the proxy's target."
    elif 300 <= status < 400:
        message = f"The server sends elsewhere (status {status}); the key is not carried along."
        hint = "Set LUTHIER_API_URL to the final address, with https where the server wants it."
    error = ClientError(message, hint=hint, details={"status": status}, code="not_luthier")
    error.request_id = response.headers.get("x-request-id")
    return error


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
