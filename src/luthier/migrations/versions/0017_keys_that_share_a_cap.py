"""A key that came of a rotation spends what the first one may."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("spends_as", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("api_keys", "spends_as")
