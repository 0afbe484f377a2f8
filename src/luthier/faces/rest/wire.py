"""What routes are made of: who asks, on which platform, and the constrained types of paths, queries and headers."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator

from luthier import ids
from luthier.accounts.types import Actor, Idempotency
from luthier.errors import CursorInvalid, IdempotencyKeyInvalid, NotFound
from luthier.faces.rest.body import StrictRoute

if TYPE_CHECKING:
    from luthier.wiring import Platform

_DIGITS = re.compile(r"-?[0-9]{1,12}", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def router(prefix: str, tag: str, *, route: type[StrictRoute] = StrictRoute) -> APIRouter:
    """A feature's routes: strict bodies, strict queries."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=route)


# Asynchronous, though they wait for nothing: FastAPI takes a plain function to a thread, and that costs more than what it does.
async def _actor(request: Request) -> Actor:
    return request.scope["luthier.actor"]


async def _platform(request: Request) -> Any:
    return request.app.state.platform


CurrentActor = Annotated[Actor, Depends(_actor)]
"""Who asks; the door has verified the key, and the route what it may do."""
if TYPE_CHECKING:
    CurrentPlatform = Annotated[Platform, Depends(_platform)]
else:
    CurrentPlatform = Annotated[Any, Depends(_platform)]


def id_of(prefix: str, noun: str, what: str) -> Any:
    """A path parameter that holds an id. What has not the form of one is unknown, like an id that nobody has."""

    def check(text: str) -> str:
        if not ids.is_id(text, prefix):
            raise NotFound(noun)
        return text

    return Annotated[str, AfterValidator(check), Path(description=what, examples=[f"{prefix}_01kagz3vqdfyxtqn4w5b9zn8r2"])]


if TYPE_CHECKING:
    DatasetId = KeyId = InvitationId = UserId = OtherDatasetId = JobId = ModelId = UploadId = HookId = WebhookId = str
else:
    DatasetId = id_of(ids.DATASET, "dataset", "Id of one dataset version.")
    OtherDatasetId = id_of(ids.DATASET, "dataset", "Id of the version that it is compared with.")
    InvitationId = id_of(ids.INVITATION, "invitation", "Id of an invitation.")
    KeyId = id_of(ids.KEY, "key", "Id of an API key.")
    UserId = id_of(ids.USER, "user", "Id of a user.")
    JobId = id_of(ids.JOB, "job", "Id of a job.")
    ModelId = id_of(ids.MODEL, "model", "Id of one model version.")
    UploadId = id_of(ids.UPLOAD, "upload", "Id of an upload in parts.")
    HookId = id_of(ids.HOOK, "hook", "Id of an inbound webhook.")
    WebhookId = id_of(ids.WEBHOOK, "webhook", "Id of an endpoint.")


def plain_number(value: Any) -> Any:
    """A number of a query: what is none in plain digits is refused."""
    # int() would take "1_000", "+1", " 1" and digits of other scripts.
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise ValueError("must be a whole number, in the digits 0 to 9")
        return int(value)
    return value


def _cursor(value: str | None) -> str | None:
    # Only the form is refused here; whose cursor it is, the list itself finds out.
    if value is not None and not re.fullmatch(r"[A-Za-z0-9_.~-]{1,200}", value, re.ASCII):
        raise CursorInvalid
    return value


Limit = Annotated[int, BeforeValidator(plain_number), Query(ge=1, le=200, description="Most entries of one page.")]
TailBytes = Annotated[int, BeforeValidator(plain_number), Query(ge=1, le=1_048_576, description="Bytes of its end.")]
After = Annotated[
    str | None, AfterValidator(_cursor), Query(description="`next_cursor` of the page before; leave out for the first one.")
]


async def _idempotency_key(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="1 to 255 visible ASCII characters. The same key gives the same answer."),
    ] = None,
) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        raise IdempotencyKeyInvalid(
            f"The Idempotency-Key is not 1 to 255 visible ASCII characters; it has {len(key)}.", hint="A UUID is a good key."
        )
    return key


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]


def idempotency(key: str | None, request: BaseModel) -> Idempotency | None:
    """The key and what was asked with it, or None without a key."""
    if key is None:
        return None
    return Idempotency(key=key, request_sha256=hashlib.sha256(request.model_dump_json().encode()).hexdigest())
