"""What teams ask of a version otherwise than the platform."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "gates",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=True),
        sa.Column("margin", sa.Double(), nullable=True),
        sa.Column("second_person", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id"),
    )


def downgrade() -> None:
    op.drop_table("gates")
