"""Refusals under `/v1` as OpenAI's clients know them: statuses, codes that programs branch on, hints that name routes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from luthier import errors

PREFIX = "/v1/"
_TRAINING, _EMBEDDINGS = "/v1/fine_tuning/", "/v1/embeddings"

_CODES: Mapping[str, str] = {
    "unauthenticated": "invalid_api_key",
    "context_length": "context_length_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "quota_exceeded": "insufficient_quota",
    "budget_exceeded": "insufficient_quota",
}
"""Ours, and what OpenAI calls the same."""
_MODELS = "`GET /v1/models` lists those that can be asked; LUTHIER_MODEL_ALIASES gives a base here another name."
_LISTS: Mapping[str, str] = {
    "model": _MODELS,
    "dataset": "List what is there with `GET /v1/files`.",
    "job": "List what is there with `GET /v1/fine_tuning/jobs`.",
}
_NOUNS: Mapping[str, str] = {"dataset": "file"}
_TRANSIENT = (errors.KeyInFlight,)
"""Conflicts that go away by waiting."""


@dataclass(frozen=True)
class Told:
    """How an error is told: its status, and the parts of its body that differ by face."""

    status: int
    message: str
    code: str
    hint: str | None
    param: str | None


def told(path: str, error: errors.LuthierError, status: int) -> Told:
    """The error in the words of the face that `path` belongs to; `status` is what it has elsewhere."""
    plain = Told(status, error.message, error.error_code, error.hint, error.param)
    if not path.startswith(PREFIX):
        return plain
    words = _in_their_words(path, error, plain)
    # The clients made for `/v1` print the message alone.
    return replace(words, message=f"{words.message} {words.hint}" if words.hint else words.message)


def _in_their_words(path: str, error: errors.LuthierError, plain: Told) -> Told:
    status, code = status_and_code(plain.status, plain.code)
    base = replace(plain, status=status, code=code)
    if isinstance(error, errors.NotFound | errors.Gone):
        return _absent(base, error)
    if plain.code == errors.ModelNotAllowed.code:
        unavailable = path.startswith(_TRAINING)
        words = base if path == _EMBEDDINGS else replace(base, hint=_MODELS, param="model")
        return replace(words, status=400, code="model_not_available") if unavailable else words
    if isinstance(error, errors.CursorInvalid):
        return replace(base, hint="Start without `after`, then pass on `last_id` of each answer.")
    return base


def _absent(plain: Told, error: errors.NotFound | errors.Gone) -> Told:
    noun = error.noun
    message = plain.message.replace(f" {noun}", f" {_NOUNS.get(noun, noun)}")
    told = replace(plain, message=message, hint=_LISTS.get(noun, plain.hint) if error.usual_hint else plain.hint)
    return replace(told, code="model_not_found", param=_their_model(error)) if noun == "model" else told


def _their_model(error: errors.LuthierError) -> str:
    """Where a model stands in a request: ours say `base_model` of what is trained."""
    return error.param if error.param not in (None, "base_model") else "model"


def status_and_code(status: int, code: str) -> tuple[int, str]:
    """What is wrong is 400, and what is gone or not there 404: the clients' classes of errors are made of these.

    >>> status_and_code(422, "context_length")
    (400, 'context_length_exceeded')
    """
    if code == errors.ModelNotAllowed.code:
        return 404, "model_not_found"
    return {422: 400, 410: 404}.get(status, status), _CODES.get(code, code)


def retry_headers(error: errors.LuthierError) -> dict[str, str]:
    """The official clients ask again after each 409 and 503, unless they are told that it would be of no use."""
    of_no_use = isinstance(error, errors.Conflict | errors.BaseUnavailable) and not isinstance(error, _TRANSIENT)
    return {"x-should-retry": "false"} if of_no_use else {}
