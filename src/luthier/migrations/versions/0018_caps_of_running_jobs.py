"""A hold remembers the spend cap of the key that its job was started with, so that a running job can end for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("holds", sa.Column("key_cap_micro_usd", sa.BigInteger(), nullable=True))
    cap = "SELECT spend_cap_micro_usd FROM api_keys WHERE api_keys.id = holds.key_id"
    op.execute(f"UPDATE holds SET key_cap_micro_usd = ({cap}) WHERE settled_at IS NULL")  # noqa: S608  # no input in it


def downgrade() -> None:
    op.drop_column("holds", "key_cap_micro_usd")
