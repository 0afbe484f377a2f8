"""When a version was promoted, and who asked for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("models", sa.Column("promoted_at", sa.BigInteger(), nullable=True))
    op.add_column("models", sa.Column("asked_by", sa.String(), nullable=True))
    op.add_column("models", sa.Column("asked_at", sa.BigInteger(), nullable=True))
    # What stands in Production now went there by promotion: a rollback can come back to it.
    op.execute("UPDATE models SET promoted_at = updated_at WHERE stage = 'Production'")


def downgrade() -> None:
    for column in ("asked_at", "asked_by", "promoted_at"):
        op.drop_column("models", column)
