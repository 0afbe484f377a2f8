"""Identity: passwords, logins, what keys may do, invitations, identities of OpenID providers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("suspended_at", sa.BigInteger()))
    op.add_column("users", sa.Column("password_hash", sa.String()))
    op.add_column("users", sa.Column("token_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("users", sa.Column("disabled_at", sa.BigInteger()))
    op.add_column("api_keys", sa.Column("prefix", sa.String(), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("scopes", sa.String()))
    op.add_column("api_keys", sa.Column("audience", sa.String(), nullable=False, server_default="api"))
    op.add_column("api_keys", sa.Column("spend_cap_micro_usd", sa.BigInteger()))
    op.add_column("api_keys", sa.Column("last_used_at", sa.BigInteger()))
    _logins()
    _invitations()
    op.create_table(
        "identities",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("issuer", "subject"),
    )
    op.create_index("ix_identities_user_id", "identities", ["user_id"])


def _logins() -> None:
    op.create_table(
        "logins",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("token_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("tenant_id", "user_id", "expires_at"):
        op.create_index(f"ix_logins_{column}", "logins", [column])
    op.create_table(
        "refresh_tokens",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("login_id", sa.String(), nullable=False),
        sa.Column("used_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["login_id"], ["logins.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("ix_refresh_tokens_login_id", "refresh_tokens", ["login_id"])


def _invitations() -> None:
    op.create_table(
        "invitations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("wrong_tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_invitations_tenant_id", "invitations", ["tenant_id"])


def downgrade() -> None:
    for table in ("identities", "invitations", "refresh_tokens", "logins"):
        op.drop_table(table)
    for column in ("last_used_at", "spend_cap_micro_usd", "audience", "scopes", "prefix"):
        op.drop_column("api_keys", column)
    for column in ("disabled_at", "token_version", "password_hash"):
        op.drop_column("users", column)
    op.drop_column("tenants", "suspended_at")
