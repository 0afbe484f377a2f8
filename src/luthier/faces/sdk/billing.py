"""Prices, and what was spent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import quote

from luthier.faces.sdk.answers import Charge, JobCost, Page, Price, UsageReport
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.transport import Transport


class AsyncBilling:
    """`client.billing`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def pricing(self) -> tuple[Price, ...]:
        """The price book."""
        return tuple([price async for price in self._transport.each("/api/billing/pricing", Price, limit=None)])

    async def usage(self) -> UsageReport:
        """What this month has cost so far."""
        return await self._transport.get("/api/billing/usage", UsageReport)

    async def history(self, *, limit: int = 50, after: str | None = None) -> Page[Charge]:
        """One page of the ledger, newest first."""
        return await self._transport.page("/api/billing/history", Charge, limit=limit, after=after)

    def each(self) -> AsyncGenerator[Charge]:
        """The whole ledger, newest first."""
        return self._transport.each("/api/billing/history", Charge)

    async def job_cost(self, job_id: str) -> JobCost:
        """What one job has cost so far."""
        return await self._transport.get(f"/api/billing/job/{quote(job_id, safe='')}/cost", JobCost)


class Billing(Face):
    """`client.billing`."""

    pricing = blocking(AsyncBilling.pricing)
    usage = blocking(AsyncBilling.usage)
    history = blocking(AsyncBilling.history)
    each = iterating(AsyncBilling.each)
    job_cost = blocking(AsyncBilling.job_cost)
