"""The table of served tokens, and the only SQL on it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.billing.token_rules import Served, TokenPrice
from luthier.database import Row, TenantOwned


class ServedRow(TenantOwned, Row):
    """What one user was served by one model on one day (UTC), at one price. Its counts only grow."""

    __tablename__ = "served_tokens"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    prompt_price: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    completion_price: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    prediction_price: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)

    @property
    def served(self) -> Served:
        return Served(self.requests, self.prompt_tokens, self.completion_tokens)

    @property
    def price(self) -> TokenPrice:
        return TokenPrice(self.prompt_price, self.completion_price, self.prediction_price)


def add(session: Session, row: ServedRow) -> Served:
    """Let a row grow by this one's counts, or begin it. Returns what it holds then."""
    values = {column.key: getattr(row, column.key) for column in ServedRow.__table__.columns}
    new = insert(ServedRow).values(**values)
    counts = (ServedRow.requests, ServedRow.prompt_tokens, ServedRow.completion_tokens)
    grown = {count.key: count + new.excluded[count.key] for count in counts}
    statement = new.on_conflict_do_update(index_elements=list(ServedRow.__table__.primary_key), set_=grown)
    requests, prompt, completion = session.execute(statement.returning(*counts)).one()
    return Served(requests, prompt, completion)


def of_month(session: Session, period: str) -> Sequence[ServedRow]:
    """All of a month, `YYYY-MM`."""
    query = select(ServedRow).where(ServedRow.day.like(f"{period}-%"))
    return session.scalars(query.order_by(ServedRow.model, ServedRow.kind, ServedRow.user_id, ServedRow.day)).all()


def tokens_in(session: Session, tenant_id: str, period: str) -> int:
    """Prompt and answer tokens of a team's month."""
    tokens = func.coalesce(func.sum(ServedRow.prompt_tokens + ServedRow.completion_tokens), 0)
    query = select(tokens).where(ServedRow.tenant_id == tenant_id, ServedRow.day.like(f"{period}-%"))
    return session.scalar(query) or 0
