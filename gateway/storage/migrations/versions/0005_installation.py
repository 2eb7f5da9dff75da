"""Create the random id of the installation, by which replicas that share a Redis recognise each other."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a table, so a gateway of the previous version continues to work."""
    table = op.create_table(
        "installation",
        sa.Column("id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.bulk_insert(table, [{"id": secrets.token_hex(8)}])
