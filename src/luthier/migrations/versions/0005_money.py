"""Budgets, alerts, spending by day, refunds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "subject"),
    )
    op.create_table(
        "budget_alerts",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "subject", "period", "threshold"),
    )
    op.create_table(
        "spending",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "day"),
    )
    op.create_index("ix_spending_day", "spending", ["day"])
    op.add_column("holds", sa.Column("user_id", sa.String(), nullable=False, server_default=""))
    op.add_column("holds", sa.Column("key_id", sa.String()))
    op.add_column("holds", sa.Column("charged_micro_usd", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_holds_key_id", "holds", ["key_id"])
    is_open = sa.text("settled_at IS NULL")
    op.create_index("open_holds", "holds", ["tenant_id", "user_id"], sqlite_where=is_open, postgresql_where=is_open)
    op.execute("UPDATE holds SET user_id = COALESCE((SELECT created_by FROM jobs WHERE jobs.id = holds.job_id), '')")
    op.add_column("ledger", sa.Column("reason", sa.String()))
    op.add_column("ledger", sa.Column("refund_key", sa.String()))
    op.create_index("one_refund_a_key", "ledger", ["refund_key"], unique=True)


def downgrade() -> None:
    op.drop_index("one_refund_a_key", "ledger")
    op.execute("DELETE FROM ledger WHERE refund_key IS NOT NULL")
    op.drop_column("ledger", "refund_key")
    op.drop_column("ledger", "reason")
    op.drop_index("open_holds", "holds")
    op.drop_index("ix_holds_key_id", "holds")
    for column in ("charged_micro_usd", "key_id", "user_id"):
        op.drop_column("holds", column)
    for table in ("spending", "budget_alerts", "budgets"):
        op.drop_table(table)
