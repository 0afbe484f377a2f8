"""Tables of prices, holds, usage and the ledger, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, Index, UniqueConstraint, bindparam, case, func, select, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.billing.types import Segment
from luthier.database import EVERY_TENANT, Database, Row, TenantOwned, UtcTime, look_in

_OPEN = text("valid_until IS NULL")
_UNSETTLED = text("settled_at IS NULL")


class PriceRow(Row):
    """A price and the time in which it was valid. Never changed but for its end."""

    __tablename__ = "prices"
    __table_args__ = (Index("one_price_now", "hardware", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),)
    id: Mapped[str] = mapped_column(primary_key=True)
    hardware: Mapped[str]
    description: Mapped[str]
    kind: Mapped[str] = mapped_column(default="gpu", server_default="gpu")
    micro_usd_per_hour: Mapped[int] = mapped_column(BigInteger)
    machine: Mapped[bool]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    assumed_flops: Mapped[float | None]
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_until: Mapped[datetime | None] = mapped_column(UtcTime)


class HoldRow(TenantOwned, Row):
    """Money set aside for a job. One row a job, kept when it is settled."""

    __tablename__ = "holds"
    __table_args__ = (Index("open_holds", "tenant_id", "user_id", sqlite_where=_UNSETTLED, postgresql_where=_UNSETTLED),)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    hardware: Mapped[str]
    user_id: Mapped[str] = mapped_column(server_default="")
    key_id: Mapped[str | None] = mapped_column(index=True)
    key_cap_micro_usd: Mapped[int | None] = mapped_column(BigInteger)
    micro_usd: Mapped[int] = mapped_column(BigInteger)
    """What the job may cost in all; what is held of it is that less what was charged."""
    charged_micro_usd: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    settled_at: Mapped[datetime | None] = mapped_column(UtcTime)

    @property
    def left(self) -> int:
        """What is set aside for what the job may still cost."""
        return 0 if self.settled_at else max(0, self.micro_usd - self.charged_micro_usd)


class SegmentRow(TenantOwned, Row):
    """A stretch of usage at one price, measured by a monotonic clock."""

    __tablename__ = "usage_segments"
    job_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    hardware: Mapped[str]
    price_id: Mapped[str]
    micro_usd_per_hour: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(UtcTime, index=True)
    ms: Mapped[int] = mapped_column(BigInteger)


class LedgerRow(TenantOwned, Row):
    """A final charge, or a refund of one: below 0, with attempt 0, its key and its reason. Rows are only ever added."""

    __tablename__ = "ledger"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "seq", "period"),
        Index("one_refund_a_key", "refund_key", unique=True),
        Index("ledger_of_team", "tenant_id", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    attempt: Mapped[int]
    seq: Mapped[int]
    period: Mapped[str] = mapped_column(index=True)
    hardware: Mapped[str]
    ms: Mapped[int] = mapped_column(BigInteger)
    micro_usd: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)
    reason: Mapped[str | None]
    refund_key: Mapped[str | None]


def prices(session: Session) -> Sequence[PriceRow]:
    """The prices that are valid now."""
    query = select(PriceRow).where(PriceRow.valid_until.is_(None))
    return session.scalars(query.order_by(PriceRow.micro_usd_per_hour, PriceRow.hardware)).all()


_PRICE = select(PriceRow.__table__).where(PriceRow.hardware == bindparam("hardware"), PriceRow.valid_until.is_(None))


def price_now(database: Database, hardware: str) -> PriceRow | None:
    """The price of this hardware that is valid now, to be read only."""
    found = database.look(EVERY_TENANT, _PRICE, {"hardware": hardware})
    return cast("PriceRow", found[0]) if found else None


def price(session: Session, hardware: str) -> PriceRow | None:
    """The price of this hardware that is valid now."""
    return session.scalar(select(PriceRow).where(PriceRow.hardware == hardware, PriceRow.valid_until.is_(None)))


_HOLD = select(HoldRow).where(HoldRow.job_id == bindparam("job_id"))


def hold_of(session: Session, job_id: str) -> HoldRow | None:
    return session.scalar(_HOLD, {"job_id": job_id})


_HOLD_LOOKED_AT = select(HoldRow.__table__).where(HoldRow.job_id == bindparam("job_id"))


def look_at_hold(session: Session, job_id: str) -> HoldRow | None:
    """The same, to be read only, and quicker."""
    found = look_in(session, _HOLD_LOOKED_AT, {"job_id": job_id})
    return cast("HoldRow", found[0]) if found else None


def held(session: Session, **of: str | None) -> int:
    """What is set aside for all jobs that are not settled, or for those of a `tenant_id`, `user_id` or `key_id`."""
    left = case((HoldRow.micro_usd > HoldRow.charged_micro_usd, HoldRow.micro_usd - HoldRow.charged_micro_usd), else_=0)
    query = select(func.coalesce(func.sum(left), 0)).where(HoldRow.settled_at.is_(None))
    return session.scalar(query.filter_by(**{name: value for name, value in of.items() if value is not None})) or 0


def charged(session: Session, key_id: str) -> int:
    """What all jobs that were started with this key have cost."""
    return session.scalar(select(func.coalesce(func.sum(HoldRow.charged_micro_usd), 0)).where(HoldRow.key_id == key_id)) or 0


def charge(session: Session, job_id: str, micro_usd: int) -> HoldRow | None:
    """Note what a job has cost so far, beside what is held for it."""
    row = hold_of(session, job_id)
    if row is not None:
        row.charged_micro_usd = micro_usd
    return row


def jobs_with_usage(session: Session) -> Sequence[str]:
    return session.scalars(select(SegmentRow.job_id).where(SegmentRow.micro_usd_per_hour > 0).distinct()).all()


def close_hold(session: Session, job_id: str, at: datetime) -> None:
    session.execute(update(HoldRow).where(HoldRow.job_id == job_id, HoldRow.settled_at.is_(None)).values(settled_at=at))


def longer(session: Session, segment: Segment) -> bool:
    """Let a segment grow to `segment.ms`; it never shrinks. False where there is no such segment yet."""
    query = update(SegmentRow).where(
        SegmentRow.job_id == segment.job_id, SegmentRow.attempt == segment.attempt, SegmentRow.seq == segment.seq
    )
    grown = session.execute(query.values(ms=func.max(SegmentRow.ms, segment.ms)).returning(SegmentRow.ms))
    return grown.first() is not None


def segments(session: Session, job_id: str) -> Sequence[SegmentRow]:
    query = select(SegmentRow).where(SegmentRow.job_id == job_id)
    return session.scalars(query.order_by(SegmentRow.attempt, SegmentRow.seq).execution_options(populate_existing=True)).all()


def segments_of_jobs_used_since(session: Session, moment: datetime) -> Sequence[SegmentRow]:
    """All segments of every job that began one at `moment` or later."""
    recent = select(SegmentRow.job_id).where(SegmentRow.started_at >= moment)
    return session.scalars(select(SegmentRow).where(SegmentRow.job_id.in_(recent))).all()


def refund_with(session: Session, key: str) -> LedgerRow | None:
    return session.scalar(select(LedgerRow).where(LedgerRow.refund_key == key))


def refunded(session: Session, period: str) -> int:
    """What was given back in a month."""
    of_month = (LedgerRow.period == period, LedgerRow.refund_key.is_not(None))
    return -(session.scalar(select(func.coalesce(func.sum(LedgerRow.micro_usd), 0)).where(*of_month)) or 0)


def lines_of(session: Session, job_id: str) -> Sequence[LedgerRow]:
    return session.scalars(select(LedgerRow).where(LedgerRow.job_id == job_id).order_by(LedgerRow.id)).all()


def lines_in(session: Session, period: str) -> Sequence[tuple[LedgerRow, str | None]]:
    """A month of the ledger, each line with the user whose job it is."""
    query = select(LedgerRow, HoldRow.user_id).outerjoin(HoldRow, HoldRow.job_id == LedgerRow.job_id)
    found = session.execute(query.where(LedgerRow.period == period).order_by(LedgerRow.id)).all()
    return [(row, user_id) for row, user_id in found]


def add_lines(session: Session, rows: Iterable[LedgerRow]) -> None:
    """Add those lines of the ledger that are not there yet."""
    for row in rows:
        values = {column.key: getattr(row, column.key) for column in LedgerRow.__table__.columns}
        session.execute(insert(LedgerRow).values(**values).on_conflict_do_nothing())
