"""A page of a team's audit log, and the row of a request, are found without reading all of the team's rows."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision: str | None = "0020"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_index("audit_of_team", "audit", ["tenant_id", "id"])
    op.create_index("audit_of_request", "audit", ["tenant_id", "request_id", "id"])


def downgrade() -> None:
    op.drop_index("audit_of_request", "audit")
    op.drop_index("audit_of_team", "audit")
