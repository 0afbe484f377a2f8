"""Hardware of the price book is processors or GPUs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("prices", sa.Column("kind", sa.String(), nullable=False, server_default="gpu"))
    op.execute("UPDATE prices SET kind = 'cpu' WHERE hardware = 'local-cpu'")


def downgrade() -> None:
    op.drop_column("prices", "kind")
