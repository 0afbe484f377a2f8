"""Tables of budgets, of what was told about them, and of spending by day, and the only SQL on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, bindparam, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime, look_in


class BudgetRow(TenantOwned, Row):
    """What a team, or one of its users, may spend in a month. The subject is the id of either."""

    __tablename__ = "budgets"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    micro_usd: Mapped[int] = mapped_column(BigInteger)
    set_by: Mapped[str]
    set_at: Mapped[datetime] = mapped_column(UtcTime)


class AlertRow(TenantOwned, Row):
    """Something that was told once: a threshold of a budget in a month, or an unusual day. Its key is what makes it once."""

    __tablename__ = "budget_alerts"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    period: Mapped[str] = mapped_column(primary_key=True)
    threshold: Mapped[int] = mapped_column(primary_key=True)
    micro_usd: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)


class SpendingRow(TenantOwned, Row):
    """What a user's jobs cost on one day (UTC), kept up by each heartbeat: a sum over usage that is never recomputed."""

    __tablename__ = "spending"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True, index=True)
    micro_usd: Mapped[int] = mapped_column(BigInteger)


def budgets(session: Session) -> Sequence[BudgetRow]:
    return session.scalars(select(BudgetRow).order_by(BudgetRow.subject)).all()


_BUDGETS_OF = select(BudgetRow.__table__).where(
    BudgetRow.tenant_id == bindparam("tenant"), BudgetRow.subject.in_((bindparam("tenant"), bindparam("user")))
)


def budgets_of(session: Session, tenant_id: str, user_id: str) -> Sequence[BudgetRow]:
    """Those that bind a user of a team: its own and the team's, to be read only. A supervisor's session sees every team's."""
    return cast("Sequence[BudgetRow]", look_in(session, _BUDGETS_OF, {"tenant": tenant_id, "user": user_id}))


def remove(session: Session, subject: str) -> None:
    session.execute(delete(BudgetRow).where(BudgetRow.subject == subject))


def spend(session: Session, row: SpendingRow) -> None:
    """Add to a day."""
    values = {"tenant_id": row.tenant_id, "user_id": row.user_id, "day": row.day, "micro_usd": row.micro_usd}
    statement = insert(SpendingRow).values(**values)
    total = SpendingRow.micro_usd + statement.excluded.micro_usd
    session.execute(statement.on_conflict_do_update(index_elements=("tenant_id", "user_id", "day"), set_={"micro_usd": total}))


def spent(session: Session, period: str, *, tenant_id: str | None = None, user_id: str | None = None) -> int:
    """What was spent in a month: by all that the session sees, by a team, or by one user of it."""
    of = {name: value for name, value in (("tenant_id", tenant_id), ("user_id", user_id)) if value is not None}
    days = (SpendingRow.day >= f"{period}-01", SpendingRow.day <= f"{period}-31")
    query = select(func.coalesce(func.sum(SpendingRow.micro_usd), 0)).where(*days).filter_by(**of)
    return session.scalar(query) or 0


def by_day(session: Session, tenant_id: str, first: str, last: str) -> dict[str, int]:
    """What a team spent on each day from `first` to `last`, where anything was."""
    own = (SpendingRow.tenant_id == tenant_id, SpendingRow.day >= first, SpendingRow.day <= last)
    query = select(SpendingRow.day, func.sum(SpendingRow.micro_usd)).where(*own)
    return {day: int(amount) for day, amount in session.execute(query.group_by(SpendingRow.day)).all()}


def any_spending(session: Session) -> bool:
    return session.scalar(select(SpendingRow.day).limit(1)) is not None


def alerts(session: Session, tenant_id: str, subject: str, period: str) -> set[int]:
    """The thresholds of which somebody was told."""
    own = (AlertRow.tenant_id == tenant_id, AlertRow.subject == subject, AlertRow.period == period)
    return set(session.scalars(select(AlertRow.threshold).where(*own)))


def alert(session: Session, row: AlertRow) -> bool:
    """Note that something is told now; False where it was told before."""
    values = {column.key: getattr(row, column.key) for column in AlertRow.__table__.columns}
    made = insert(AlertRow).values(**values).on_conflict_do_nothing().returning(AlertRow.threshold)
    return session.execute(made).first() is not None


def forget_alerts(session: Session, subject: str, period: str, above: int) -> None:
    """Thresholds of this month that a changed budget no longer reaches: they are told when they are reached again."""
    own = (AlertRow.subject == subject, AlertRow.period == period, AlertRow.threshold > above)
    session.execute(delete(AlertRow).where(*own))
