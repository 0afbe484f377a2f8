"""What your team may hold."""

from __future__ import annotations

from luthier.faces.sdk.answers import Page, QuotaStanding
from luthier.faces.sdk.blocking import Face, blocking
from luthier.faces.sdk.transport import Transport


class AsyncQuotas:
    """`client.quotas`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> Page[QuotaStanding]:
        """Each quota of your team, with what is used of it."""
        return await self._transport.page("/api/quotas", QuotaStanding)


class Quotas(Face):
    """`client.quotas`."""

    list = blocking(AsyncQuotas.list)
