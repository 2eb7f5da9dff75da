"""Create indexes for lists: users by activity and by domain, the audit trail by subject, actor and action, newest
first."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Change only indexes, so a gateway of the previous version continues to work."""
    op.create_index("ix_users_is_active_canonical", "users", ["is_active", "canonical"])
    domain = sa.text("ltrim(canonical, replace(canonical, '@', ''))")
    op.create_index("ix_users_at_domain", "users", [domain, "canonical"])
    op.drop_index("ix_audit_at", "audit")
    op.drop_index("ix_audit_subject_id", "audit")
    op.create_index("ix_audit_at_id", "audit", ["at", "id"])
    for column in ("subject", "actor", "action"):
        op.create_index(f"ix_audit_{column}_at_id", "audit", [column, "at", "id"])
