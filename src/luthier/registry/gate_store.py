"""The table of what teams ask otherwise than the platform before Production."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from luthier.database import Row, TenantOwned


class GateRow(TenantOwned, Row):
    """What a team has instead of the platform's settings; null: nothing else."""

    __tablename__ = "gates"
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str | None]
    margin: Mapped[float | None]
    second_person: Mapped[bool | None]
