"""Jobs say which field of theirs was at fault, and how many tokens they saw."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("tokens_seen", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("error_param", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "error_param")
    op.drop_column("jobs", "tokens_seen")
