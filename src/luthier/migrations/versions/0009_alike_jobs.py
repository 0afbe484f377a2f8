"""A page of a long list, and earlier jobs that are like a new one, are found without reading all of a team's."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

_COLUMNS = ["base_model", "hardware", "id", "kind", "state", "error_code", "measured_tokens_per_second"]


def upgrade() -> None:
    op.create_index("jobs_alike", "jobs", _COLUMNS)
    op.create_index("jobs_of_team_in_state", "jobs", ["tenant_id", "state", "deleted_at"])
    op.create_index("jobs_of_team", "jobs", ["tenant_id", "id"])
    op.create_index("ledger_of_team", "ledger", ["tenant_id", "id"])


def downgrade() -> None:
    op.drop_index("ledger_of_team", "ledger")
    op.drop_index("jobs_of_team", "jobs")
    op.drop_index("jobs_of_team_in_state", "jobs")
    op.drop_index("jobs_alike", "jobs")
