"""Where a team is told of its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import quote

from luthier.faces.sdk.answers import Delivery, Endpoint, Page
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Call, Transport

_PAUSE_S = 0.3


class AsyncWebhooks:
    """`client.webhooks`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def add(
        self, url: str, *, channel: str = "webhook", kinds: Sequence[str] | None = None, description: str | None = None
    ) -> Endpoint:
        """Tell an address of the team's events. Its `secret`, which signs them, is in this answer and in no other."""
        body = {"url": url, "channel": channel, "kinds": None if kinds is None else list(kinds), "description": description}
        return Endpoint(await self._transport.json(Call("POST", "/api/webhooks", body=body)))

    async def list(self) -> tuple[Endpoint, ...]:
        """All endpoints, newest first."""
        return (await self._transport.page("/api/webhooks", Endpoint)).data

    async def get(self, webhook_id: str) -> Endpoint:
        """One endpoint."""
        return await self._transport.get(_path(webhook_id), Endpoint)

    async def change(self, webhook_id: str, *, kinds: Sequence[str] | None = None, enabled: bool | None = None) -> Endpoint:
        """Other events, on or off."""
        body = {"kinds": None if kinds is None else list(kinds), "enabled": enabled}
        return Endpoint(await self._transport.json(Call("PATCH", _path(webhook_id), body=body, again=True)))

    async def remove(self, webhook_id: str) -> None:
        """Tell it nothing more."""
        await self._transport.json(Call("DELETE", _path(webhook_id)))

    async def test(self, webhook_id: str, *, wait_s: float = 15.0) -> Delivery:
        """Send it one event, and wait until the first attempt was made: `attempts`, `last_status` and `last_error` tell."""
        delivery = Delivery(await self._transport.json(Call("POST", f"{_path(webhook_id)}/test")))
        until = time.monotonic() + wait_s
        while delivery.attempts == 0 and delivery.state == "waiting" and time.monotonic() < until:
            await asyncio.sleep(_PAUSE_S)
            found = [each for each in await self.deliveries(webhook_id) if each.id == delivery.id]
            delivery = found[0] if found else delivery
        return delivery

    async def rotate(self, webhook_id: str) -> Endpoint:
        """Replace its secret: the new one is in this answer and in no other; the one before signs too for 24 hours."""
        return Endpoint(await self._transport.json(Call("POST", f"{_path(webhook_id)}/rotate")))

    async def deliveries(self, webhook_id: str, *, limit: int = 50, after: str | None = None) -> Page[Delivery]:
        """What it was sent, newest first."""
        return await self._transport.page(f"{_path(webhook_id)}/deliveries", Delivery, limit=limit, after=after)


def _path(webhook_id: str) -> str:
    return f"/api/webhooks/{quote(webhook_id, safe='')}"


class Webhooks(Face):
    """`client.webhooks`."""

    add = blocking(AsyncWebhooks.add)
    list = blocking(AsyncWebhooks.list)
    get = blocking(AsyncWebhooks.get)
    change = blocking(AsyncWebhooks.change)
    remove = blocking(AsyncWebhooks.remove)
    test = blocking(AsyncWebhooks.test)
    rotate = blocking(AsyncWebhooks.rotate)
    deliveries = blocking(AsyncWebhooks.deliveries)
