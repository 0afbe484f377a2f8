"""The audit log: a table that only grows. Triggers refuse deletion, and any change but the sealing of a row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

_CONTENT = (
    "id",
    "tenant_id",
    "at",
    "until",
    "actor",
    "key_id",
    "address",
    "request_id",
    "action",
    "route",
    "resources",
    "outcome",
    "status",
    "code",
    "count",
    "data",
)


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=True),
        sa.Column("resources", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("data", sa.String(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant_id"])
    op.create_index("audit_chain", "audit", ["tenant_id", "seq"], unique=True)
    unsealed = sa.text("seq IS NULL")
    op.create_index("audit_unsealed", "audit", ["id"], sqlite_where=unsealed, postgresql_where=unsealed)
    if op.get_context().dialect.name == "sqlite":
        _only_grows()


def _only_grows() -> None:
    kept = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in _CONTENT)
    refuse = "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
    op.execute(f"CREATE TRIGGER audit_kept BEFORE DELETE ON audit {refuse}")
    op.execute(f"CREATE TRIGGER audit_as_written BEFORE UPDATE ON audit WHEN OLD.seq IS NOT NULL OR NOT ({kept}) {refuse}")
    op.execute(f"CREATE TRIGGER audit_sealed_later BEFORE INSERT ON audit WHEN NEW.seq IS NOT NULL {refuse}")


def downgrade() -> None:
    op.drop_table("audit")
