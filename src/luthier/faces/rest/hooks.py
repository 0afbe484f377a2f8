"""Inbound webhooks: what others may start here, and the door that they knock on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Header, Request, Response

from luthier.errors import (
    BadRequest,
    BudgetExceeded,
    Conflict,
    DatasetNotReady,
    FieldInvalid,
    ForbiddenField,
    Gone,
    ModelNotAllowed,
    ModelNotReady,
    NotFound,
    TooLarge,
    Unauthenticated,
    WillNotFit,
)
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import MAX_BODY_BYTES, Json, read_limited, shown_as, strict_json
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import CurrentActor, CurrentPlatform, HookId, router
from luthier.hooks.types import Call, CreatedHook, Hook, NewHook
from luthier.jobs.types import Submitted
from luthier.values import Page

routes = router("", "hooks")

_RUN = (NotFound, Gone, DatasetNotReady, ModelNotReady, ModelNotAllowed, FieldInvalid, ForbiddenField)
_NEW = {
    "nightly": {
        "summary": "Train on what the caller names",
        "value": {
            "name": "nightly",
            "run": {"base_model": "luthier/tiny", "dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2", "name": "intents"},
            "overrides": ["dataset"],
            "spend_cap_usd": "50.00",
        },
    }
}
New = Annotated[Json[NewHook], shown_as(_NEW)]
_CALL: dict[str, Any] = {
    "requestBody": {
        "description": "Fields of the run that the hook lets a caller give; may be empty.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": {"dataset": "ds_01kagz3vqdfyxtqn4w5b9zn8r2"}}},
    }
}


@routes.post("/api/hooks", status_code=201, responses=problems(*_RUN, Conflict), dependencies=[AdminOnly])
def add(wanted: New, actor: CurrentActor, platform: CurrentPlatform) -> CreatedHook:
    """Let others start this run. The answer has the secret that they sign with: it is shown this once."""
    return platform.hooks.add(actor, wanted)


@routes.get("/api/hooks")
def list_hooks(actor: CurrentActor, platform: CurrentPlatform) -> Page[Hook]:
    """All hooks of the team, newest first."""
    return Page(data=platform.hooks.list(actor))


@routes.get("/api/hooks/{hook_id}", responses=problems(NotFound))
def show(hook_id: HookId, actor: CurrentActor, platform: CurrentPlatform) -> Hook:
    """One hook."""
    return platform.hooks.get(actor, hook_id)


@routes.delete("/api/hooks/{hook_id}", status_code=204, responses=problems(NotFound), dependencies=[AdminOnly])
def remove(hook_id: HookId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Refuse its callers from now on."""
    platform.hooks.remove(actor, hook_id)


@routes.post(
    "/hooks/{hook}",
    status_code=202,
    openapi_extra=_CALL,
    responses={200: {"model": Submitted, "description": "This message came before: the job that it started then."}}
    | problems(*_RUN, Unauthenticated, BadRequest, TooLarge, WillNotFit, BudgetExceeded),
)
async def call(
    request: Request,
    response: Response,
    hook: str,
    platform: CurrentPlatform,
    *,
    message_id: Annotated[str, Header(alias="webhook-id", description="Names this message; the same again starts nothing.")] = "",
    stamp: Annotated[str, Header(alias="webhook-timestamp", description="Seconds since 1970; at most 5 minutes off.")] = "",
    signature: Annotated[str, Header(alias="webhook-signature", description="`v1,` and the HMAC of id.timestamp.body.")] = "",
) -> Submitted:
    """Start the hook's run. Needs no key: the sender signs, as Standard Webhooks says."""
    body = await read_limited(request, MAX_BODY_BYTES)
    known = Call(message_id, stamp, signature, body)
    believed = await anyio.to_thread.run_sync(platform.hooks.believed, hook, known)
    who = replace(believed.actor, request_id=request.scope["luthier.request_id"])
    request.scope["luthier.actor"] = who  # now it is known who asks: logs and the audit name them, also if it is refused
    submitted = await anyio.to_thread.run_sync(platform.hooks.start, replace(believed, actor=who), _given(body))
    if submitted.replayed:
        response.status_code = 200
    return submitted


def _given(body: bytes) -> dict[str, Any]:
    """The fields of a call. Raises: BadRequest, FieldInvalid."""
    found = json.loads(strict_json(body).data) if body.strip() else {}
    if not isinstance(found, dict):
        raise BadRequest("The body is no JSON object.", hint='Send one, such as {"dataset": "ds_..."}, or nothing.')
    return found
