"""Prices, holds, usage and the ledger."""

from __future__ import annotations

from sqlalchemy.orm import Session

from luthier.accounts.types import Actor
from luthier.billing.types import Charge, JobCost, Price, Segment, UsageReport
from luthier.database import Database
from luthier.seams import Clock
from luthier.values import Page


class Billing:
    """What usage costs. Prices a running job by the price that its usage segment began with."""

    def __init__(self, database: Database, now: Clock, machine_memory_bytes: int | None = None) -> None: ...

    def first_start(self) -> None:
        """Fill an empty price table from the shipped price book; afterwards the table is the truth. Safe to repeat."""
        raise NotImplementedError

    def prices(self) -> list[Price]:
        """All prices that are valid now, cheapest first."""
        raise NotImplementedError

    def price(self, hardware: str) -> Price:
        """The price of this hardware now. Raises: FieldInvalid."""
        raise NotImplementedError

    def set_price(self, hardware: str, hourly_usd: str) -> Price:
        """From now on this hardware costs that much; usage that has begun keeps its price to the end of its segment.

        Raises: FieldInvalid.
        """
        raise NotImplementedError

    def job_cost(self, actor: Actor, job_id: str) -> JobCost:
        """What a job has cost so far. Raises: NotFound."""
        raise NotImplementedError

    def usage(self, actor: Actor) -> UsageReport:
        """The current month of the caller's tenant."""
        raise NotImplementedError

    def history(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Charge]:
        """The ledger, newest first. Raises: CursorInvalid."""
        raise NotImplementedError

    def hold(self, session: Session, actor: Actor, job_id: str, micro_usd: int) -> None:
        """Set money aside for a job, in the transaction that makes it."""
        raise NotImplementedError

    def beat(self, session: Session, segment: Segment) -> int:
        """Note usage; a repeated or shorter segment changes nothing. Returns the job's cumulative charge in micro-dollars."""
        raise NotImplementedError

    def settle(self, session: Session, tenant_id: str, job_id: str) -> int:
        """Replace the hold by what was used, in the ledger, once: a second call adds nothing. Returns the charge."""
        raise NotImplementedError
