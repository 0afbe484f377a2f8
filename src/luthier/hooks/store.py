"""The table of inbound webhooks, and the only SQL on it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from luthier.database import Row, TenantOwned, UtcTime


class HookRow(TenantOwned, Row):
    """A run that can be started from outside. `locked` holds the secret that signs, and that of the key it acts with."""

    __tablename__ = "hooks"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    template: Mapped[str]
    overrides: Mapped[str]
    spend_cap_usd: Mapped[str | None]
    key_id: Mapped[str]
    locked: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(UtcTime)


def hook(session: Session, hook_id: str) -> HookRow | None:
    return session.scalar(select(HookRow).where(HookRow.id == hook_id))


def hooks(session: Session) -> Sequence[HookRow]:
    return session.scalars(select(HookRow).order_by(HookRow.id.desc())).all()
