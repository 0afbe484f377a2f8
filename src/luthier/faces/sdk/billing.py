"""Prices, and what was spent."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from urllib.parse import quote

from luthier.faces.sdk.answers import Answer, Budget, Charge, JobCost, Page, Price, UsageReport
from luthier.faces.sdk.blocking import Face, blocking, iterating
from luthier.faces.sdk.transport import Call, Transport


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

    async def budgets(self) -> tuple[Budget, ...]:
        """What your team and its users may spend this month, and how much of it is left."""
        return (await self._transport.page("/api/budgets", Budget)).data

    async def set_budget(self, limit_usd: str | None, *, user_id: str | None = None) -> None:
        """What your team, or one of its users, may spend in a month. "0" stops everything, None ends the limit."""
        await self._transport.json(Call("PUT", "/api/budgets", body={"limit_usd": limit_usd, "user_id": user_id}, again=True))

    async def set_price(self, hardware: str, hourly_usd: str) -> Price:
        """What an hour costs from now on. For those who run the server."""
        call = Call("PUT", f"/api/billing/pricing/{quote(hardware, safe='')}", body={"hourly_usd": hourly_usd}, again=True)
        return Price(await self._transport.json(call))

    async def refund(self, job_id: str, amount_usd: str, reason: str, *, idempotency_key: str | None = None) -> Charge:
        """Give back what a job was charged. For those who run the server."""
        body = {"job_id": job_id, "amount_usd": amount_usd, "reason": reason}
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        return Charge(await self._transport.json(Call("POST", "/api/billing/refunds", body=body, headers=headers, again=True)))

    async def report(self, period: str) -> Answer:
        """A month of the ledger, `YYYY-MM`, by job, user and hardware."""
        return await self._transport.get("/api/billing/report", Answer, period=period)

    async def report_csv(self, period: str) -> str:
        """The same, as CSV: one line a job."""
        return await self._report_as(period, "csv")

    async def report_page(self, period: str) -> str:
        """The same, as a page of HTML to print."""
        return await self._report_as(period, "html")

    async def _report_as(self, period: str, form: str) -> str:
        call = Call("GET", "/api/billing/report", {"period": period, "format": form})

        async def once() -> str:
            async with self._transport.open(call) as response:
                return (await response.aread()).decode("utf-8")

        return await self._transport.tried(once, again=True)


class Billing(Face):
    """`client.billing`."""

    pricing = blocking(AsyncBilling.pricing)
    usage = blocking(AsyncBilling.usage)
    history = blocking(AsyncBilling.history)
    each = iterating(AsyncBilling.each)
    job_cost = blocking(AsyncBilling.job_cost)
    budgets = blocking(AsyncBilling.budgets)
    set_budget = blocking(AsyncBilling.set_budget)
    set_price = blocking(AsyncBilling.set_price)
    refund = blocking(AsyncBilling.refund)
    report = blocking(AsyncBilling.report)
    report_csv = blocking(AsyncBilling.report_csv)
    report_page = blocking(AsyncBilling.report_page)
