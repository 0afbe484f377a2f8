"""What is sampled of requests, and what was found in it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "drift_watches",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name"),
    )
    op.create_table(
        "drift_references",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("why", sa.String(), nullable=True),
        sa.Column("embedder", sa.String(), nullable=True),
        sa.Column("vectors", sa.LargeBinary(), nullable=True),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("model_id"),
    )
    op.create_index("ix_drift_references_tenant_id", "drift_references", ["tenant_id"])
    op.create_table(
        "drift_samples",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("judged", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_drift_samples_tenant_id", "drift_samples", ["tenant_id"])
    op.create_index("ix_drift_samples_model_id", "drift_samples", ["model_id"])
    op.create_index("ix_drift_samples_at", "drift_samples", ["at"])
    waiting = sa.text("judged = 0")
    op.create_index("ix_drift_samples_waiting", "drift_samples", ["model_id"], sqlite_where=waiting, postgresql_where=waiting)
    op.create_table(
        "drift_windows",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "number"),
    )
    op.create_index("ix_drift_windows_tenant_id", "drift_windows", ["tenant_id"])


def downgrade() -> None:
    for table in ("drift_windows", "drift_samples", "drift_references", "drift_watches"):
        op.drop_table(table)
