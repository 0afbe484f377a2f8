"""Who did what, for admins of a team."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from luthier.faces.sdk.answers import AuditEntry, Page
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.transport import Transport


class AsyncAudit:
    """`client.audit`. `found` narrows a list: `actor`, `action`, `outcome`, `on` (an id), `request_id` (every error has one),
    `since`, `until` (ISO moments)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, *, limit: int = 50, after: str | None = None, **found: str | None) -> Page[AuditEntry]:
        """One page of the log, newest first."""
        return await self._transport.page("/api/audit", AuditEntry, limit=limit, after=after, **found)

    def each(self, **found: str | None) -> AsyncGenerator[AuditEntry]:
        """The whole log, newest first."""
        return self._transport.each("/api/audit", AuditEntry, **found)


class Audit(Face):
    """`client.audit`. `found` narrows a list: `actor`, `action`, `outcome`, `on` (an id), `request_id` (every error has one),
    `since`, `until` (ISO moments)."""

    list = blocking(AsyncAudit.list)
    each = iterating(AsyncAudit.each)
