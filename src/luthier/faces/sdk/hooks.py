"""Inbound webhooks: what others may start here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from luthier.faces.sdk.answers import Hook
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Call, Transport


class AsyncHooks:
    """`client.hooks`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def add(
        self, name: str, run: Mapping[str, Any], *, overrides: Sequence[str] = ("dataset",), spend_cap_usd: str | None = None
    ) -> Hook:
        """Let others start this run. Its `secret`, which they sign with, is in this answer and in no other."""
        body = {"name": name, "run": dict(run), "overrides": list(overrides), "spend_cap_usd": spend_cap_usd}
        return Hook(await self._transport.json(Call("POST", "/api/hooks", body=body)))

    async def list(self) -> tuple[Hook, ...]:
        """All hooks, newest first."""
        return (await self._transport.page("/api/hooks", Hook)).data

    async def get(self, hook_id: str) -> Hook:
        """One hook."""
        return await self._transport.get(f"/api/hooks/{quote(hook_id, safe='')}", Hook)

    async def remove(self, hook_id: str) -> None:
        """Refuse its callers from now on."""
        await self._transport.json(Call("DELETE", f"/api/hooks/{quote(hook_id, safe='')}"))


class Hooks(Face):
    """`client.hooks`."""

    add = blocking(AsyncHooks.add)
    list = blocking(AsyncHooks.list)
    get = blocking(AsyncHooks.get)
    remove = blocking(AsyncHooks.remove)
