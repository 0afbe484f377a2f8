"""Refunds: lines of the ledger below 0. Nothing that was charged is ever changed."""

from __future__ import annotations

from luthier import ids
from luthier.billing import rules, store
from luthier.billing.types import Refund
from luthier.database import EVERY_TENANT, Database, from_ms, to_ms
from luthier.errors import FieldInvalid, KeyReused, NotFound
from luthier.seams import Clock


class Refunds:
    """Made by those who run the platform, for a job of any team."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def add(self, refund: Refund) -> store.LedgerRow:
        """Give back a part of what a job was charged, or all of it. The same key again changes nothing.

        Raises: NotFound, FieldInvalid where it is more than was charged and not given back, KeyReused.
        """
        with self._database.write(EVERY_TENANT) as session:
            earlier = store.refund_with(session, refund.key)
            if earlier is not None:
                if (earlier.job_id, earlier.micro_usd) != (refund.job_id, -refund.micro_usd):
                    raise KeyReused
                return earlier
            hold = store.hold_of(session, refund.job_id)
            if hold is None:
                raise NotFound("job")
            lines = store.lines_of(session, refund.job_id)
            left = sum(line.micro_usd for line in lines)
            if not 0 < refund.micro_usd <= left:
                message = f"Of this job ${rules.usd(left)} was charged and not given back."
                raise FieldInvalid(message, hint="Refund that much at most, and more than nothing.", param="amount_usd")
            row = store.LedgerRow(
                id=ids.new(ids.CHARGE),
                tenant_id=hold.tenant_id,
                job_id=refund.job_id,
                attempt=0,
                seq=sum(1 for line in lines if line.refund_key is not None) + 1,
                period=rules.period_of(self._now()),
                hardware=hold.hardware,
                ms=0,
                micro_usd=-refund.micro_usd,
                at=from_ms(to_ms(self._now())),  # as it will be read: the same answer to the same key
                reason=refund.reason,
                refund_key=refund.key,
            )
            session.add(row)
            return row
