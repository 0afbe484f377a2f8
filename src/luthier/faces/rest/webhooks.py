"""Where a team is told of its events: endpoints, and what became of each delivery."""

from __future__ import annotations

from typing import Annotated

from luthier.errors import CursorInvalid, EndpointConflict, FieldInvalid, NotFound, WrongState
from luthier.faces.rest.access import AdminOnly
from luthier.faces.rest.body import Json, shown_as
from luthier.faces.rest.errors import problems
from luthier.faces.rest.wire import After, CurrentActor, CurrentPlatform, Limit, WebhookId, router
from luthier.notifications.types import CreatedEndpoint, Delivery, Endpoint, EndpointChange, NewEndpoint
from luthier.values import Page

_NEW = {
    "webhook": {"summary": "Signed", "value": {"url": "https://hooks.example.com/luthier", "kinds": ["job.*", "budget.alert"]}},
    "slack": {"summary": "Slack", "value": {"url": "https://hooks.slack.com/services/T0/B0/x", "channel": "slack"}},
}
_CHANGE = {"off": {"summary": "Switch it off", "value": {"enabled": False}}}
New = Annotated[Json[NewEndpoint], shown_as(_NEW)]
Change = Annotated[Json[EndpointChange], shown_as(_CHANGE)]

routes = router("/api/webhooks", "notifications")


@routes.post("", status_code=201, responses=problems(FieldInvalid, EndpointConflict), dependencies=[AdminOnly])
def add(wanted: New, actor: CurrentActor, platform: CurrentPlatform) -> CreatedEndpoint:
    """Tell an address of the team's events. The answer has the secret that signs them: it is shown this once."""
    return platform.notifications.add(actor, wanted)


@routes.get("")
def list_webhooks(actor: CurrentActor, platform: CurrentPlatform) -> Page[Endpoint]:
    """All endpoints of the team, newest first."""
    return Page(data=platform.notifications.list(actor))


@routes.get("/{webhook_id}", responses=problems(NotFound))
def show(webhook_id: WebhookId, actor: CurrentActor, platform: CurrentPlatform) -> Endpoint:
    """One endpoint."""
    return platform.notifications.get(actor, webhook_id)


@routes.patch("/{webhook_id}", responses=problems(NotFound, FieldInvalid), dependencies=[AdminOnly])
def change(webhook_id: WebhookId, wanted: Change, actor: CurrentActor, platform: CurrentPlatform) -> Endpoint:
    """Other events, on or off. What was switched off because of its answers can be switched on again."""
    return platform.notifications.change(actor, webhook_id, wanted)


@routes.delete("/{webhook_id}", status_code=204, responses=problems(NotFound), dependencies=[AdminOnly])
def remove(webhook_id: WebhookId, actor: CurrentActor, platform: CurrentPlatform) -> None:
    """Tell it nothing more."""
    platform.notifications.remove(actor, webhook_id)


@routes.post("/{webhook_id}/test", status_code=202, responses=problems(NotFound, WrongState), dependencies=[AdminOnly])
def test(webhook_id: WebhookId, actor: CurrentActor, platform: CurrentPlatform) -> Delivery:
    """Send it one event of the kind `endpoint.test`. What became of it stands in its deliveries."""
    return platform.notifications.test(actor, webhook_id)


@routes.post("/{webhook_id}/rotate", responses=problems(NotFound, FieldInvalid), dependencies=[AdminOnly])
def rotate(webhook_id: WebhookId, actor: CurrentActor, platform: CurrentPlatform) -> CreatedEndpoint:
    """Replace its secret. The answer has the new one, this once; the one before signs beside it for 24 hours more."""
    return platform.notifications.rotate(actor, webhook_id)


@routes.get("/{webhook_id}/deliveries", responses=problems(NotFound, CursorInvalid, FieldInvalid))
def deliveries(
    webhook_id: WebhookId, actor: CurrentActor, platform: CurrentPlatform, limit: Limit = 50, after: After = None
) -> Page[Delivery]:
    """What it was sent, newest first: attempts, the last answer, when it is tried again."""
    return platform.notifications.deliveries(actor, webhook_id, after=after, limit=limit)
