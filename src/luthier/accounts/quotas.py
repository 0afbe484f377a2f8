"""How much a team may hold: defaults for all, exceptions for some, checked in the transaction that would exceed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from pydantic import Field
from sqlalchemy.orm import Session

from luthier.accounts import quota_store as store
from luthier.accounts.types import Actor
from luthier.database import EVERY_TENANT, Database
from luthier.errors import NotFound, QuotaExceeded
from luthier.values import Frozen


class Quota(StrEnum):
    """What is counted."""

    STORAGE_BYTES = "storage_bytes"
    QUEUED_JOBS = "queued_jobs"
    RUNNING_JOBS = "running_jobs"
    TOKENS_A_MONTH = "tokens_a_month"
    SERVED_TOKENS_A_MONTH = "served_tokens_a_month"


_MEND = {
    Quota.STORAGE_BYTES: "Delete datasets that are no longer needed.",
    Quota.QUEUED_JOBS: "Wait until some have ended, or cancel some.",
    Quota.RUNNING_JOBS: "Wait until one has ended.",
    Quota.SERVED_TOKENS_A_MONTH: "Wait for the next month, or ask those who run this server for more.",
    Quota.TOKENS_A_MONTH: "Wait for the next month, or train on fewer tokens.",
}

Meter = Callable[[Session, str], int]
"""How much of something a tenant has, asked inside a transaction."""


class Standing(Frozen):
    """One quota of a team."""

    quota: Quota
    limit: int | None = Field(description="None: as much as there is.")
    used: int


def check_room(quota: Quota, *, limit: int, used: int, asked: int) -> None:
    """Raises: QuotaExceeded."""
    if used + asked > limit:
        raise QuotaExceeded(quota, limit=limit, used=used, asked=asked, hint=_MEND[quota])


class Quotas:
    """Whoever owns a thing tells how it is measured; whoever adds to it asks here first."""

    def __init__(self, database: Database, defaults: Mapping[Quota, int]) -> None:
        self._database = database
        self._defaults = defaults
        self._meters: dict[Quota, Meter] = {}

    def measure(self, quota: Quota, meter: Meter) -> None:
        """From now on this says how much is used."""
        self._meters[quota] = meter

    def check(self, session: Session, tenant_id: str, asked: Mapping[Quota, int]) -> None:
        """Raises: QuotaExceeded where so much more of something would be too much. In the transaction that adds it, so that two
        at once cannot share the last of it."""
        exceptions = store.exceptions(session, tenant_id)
        for quota, more in asked.items():
            limit = self._limit(quota, exceptions.get(quota))
            if limit is not None:
                check_room(quota, limit=limit, used=self._meters[quota](session, tenant_id), asked=more)

    def room_for(self, tenant_id: str, quota: Quota, asked: int) -> None:
        """The same before there is a transaction, so that what cannot be kept is not sent. Raises: QuotaExceeded."""
        with self._database.read(tenant_id) as session:
            self.check(session, tenant_id, {quota: asked})

    def limit(self, session: Session, tenant_id: str, quota: Quota) -> int | None:
        """How much of it this team may have; None: no limit."""
        return self._limit(quota, store.exceptions(session, tenant_id).get(quota))

    def of(self, actor: Actor) -> list[Standing]:
        """All quotas of the caller's team."""
        return self.of_team(actor.tenant_id)

    def of_team(self, tenant_id: str) -> list[Standing]:
        """All quotas of a team. Raises: NotFound."""
        with self._database.read(EVERY_TENANT) as session:
            if not store.exists(session, tenant_id):
                raise NotFound("team", hint="List them with `luthier teams list`.")
            exceptions = store.exceptions(session, tenant_id)
            return [
                Standing(quota=quota, limit=self._limit(quota, exceptions.get(quota)), used=meter(session, tenant_id))
                for quota in Quota
                if (meter := self._meters.get(quota)) is not None
            ]

    def set(self, tenant_id: str, quota: Quota, limit: int | None) -> None:
        """Make an exception for a team; 0 is no limit, None takes the exception back. Raises: NotFound."""
        with self._database.write(EVERY_TENANT) as session:
            if not store.exists(session, tenant_id):
                raise NotFound("team", hint="List them with `luthier teams list`.")
            row = store.exception(session, tenant_id, quota)
            if row is not None and limit is None:
                session.delete(row)
            elif row is not None and limit is not None:
                row.most = limit
            elif limit is not None:
                session.add(store.QuotaRow(tenant_id=tenant_id, name=quota, most=limit))

    def _limit(self, quota: Quota, exception: int | None) -> int | None:
        return (self._defaults.get(quota, 0) if exception is None else exception) or None
