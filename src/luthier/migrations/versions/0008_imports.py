"""How far the import of a dataset is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("fetched_bytes", sa.BigInteger(), nullable=True))
    op.add_column("datasets", sa.Column("expected_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "expected_bytes")
    op.drop_column("datasets", "fetched_bytes")
