"""API keys of the caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from luthier.faces.sdk.answers import Key, NewKey, Page
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.transport import Call, Transport


class AsyncKeys:
    """`client.keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] | None = None,
        expires_in_days: int | None = None,
        audience: str = "api",
        spend_cap_usd: str | None = None,
    ) -> NewKey:
        """A key for the team that you act for. Its `secret` is in this answer, and nowhere else."""
        body = {
            "name": name,
            "scopes": None if scopes is None else list(scopes),
            "expires_in_days": expires_in_days,
            "audience": audience,
            "spend_cap_usd": spend_cap_usd,
        }
        return NewKey(await self._transport.json(Call("POST", "/api/keys", body=body)))

    async def list(self, *, limit: int = 50, after: str | None = None) -> Page[Key]:
        """Your keys, newest first; an admin sees the whole team's."""
        return await self._transport.page("/api/keys", Key, limit=limit, after=after)

    def each(self) -> AsyncGenerator[Key]:
        """All of them, page by page."""
        return self._transport.each("/api/keys", Key)

    async def revoke(self, key_id: str) -> None:
        """Refuse it from now on."""
        await self._transport.json(Call("DELETE", f"/api/keys/{key_id}", again=True))

    async def rotate(self, key_id: str, *, keep_old_hours: int = 24) -> NewKey:
        """A new secret for it; the old one still works for so many hours."""
        body = {"keep_old_hours": keep_old_hours}
        return NewKey(await self._transport.json(Call("POST", f"/api/keys/{key_id}/rotate", body=body)))


class Keys(Face):
    """`client.keys`."""

    create = blocking(AsyncKeys.create)
    list = blocking(AsyncKeys.list)
    each = iterating(AsyncKeys.each)
    revoke = blocking(AsyncKeys.revoke)
    rotate = blocking(AsyncKeys.rotate)
