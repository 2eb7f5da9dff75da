"""Add browser sessions, verified addresses, accounts without a password, one-time links and mail to send."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Change the tables in place. The rows of users and sessions stay."""
    _change_users()
    _change_sessions()
    _create_links()
    _create_outbox()


def _change_users() -> None:
    op.add_column("users", sa.Column("email_verified_at", sa.BigInteger))
    op.add_column("users", sa.Column("language", sa.String))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("users", "password_hash", nullable=True)
        return
    # SQLite cannot drop NOT NULL, and a new table in place of this one would delete the rows that refer to it.
    op.add_column("users", sa.Column("nullable_hash", sa.String))
    op.execute("UPDATE users SET nullable_hash = password_hash")
    op.execute("ALTER TABLE users DROP COLUMN password_hash")
    op.execute("ALTER TABLE users RENAME COLUMN nullable_hash TO password_hash")


def _change_sessions() -> None:
    for column in (
        sa.Column("kind", sa.String, nullable=False, server_default="token"),
        sa.Column("authenticated_at", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("acr", sa.String, nullable=False, server_default="aal1"),
        sa.Column("amr", sa.String, nullable=False, server_default="pwd"),
        sa.Column("remember", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("previous_digest", sa.LargeBinary),
        sa.Column("previous_until", sa.BigInteger),
        sa.Column("previous_authenticated_at", sa.BigInteger),
        sa.Column("previous_acr", sa.String),
        sa.Column("previous_amr", sa.String),
    ):
        op.add_column("sessions", column)
    op.execute("UPDATE sessions SET authenticated_at = created_at")
    op.create_index("ix_sessions_digest", "sessions", ["digest"], unique=True)
    op.create_index("ix_sessions_previous_digest", "sessions", ["previous_digest"], unique=True)


def _create_links() -> None:
    bytewise = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    op.create_table(
        "links",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("canonical", bytewise, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("digest", name="pk_links"),
        sa.UniqueConstraint("id", name="uq_links_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_links_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_links_expires_at", "links", ["expires_at"])
    op.create_index("ix_links_user_id_kind", "links", ["user_id", "kind"])
    op.create_index("ix_links_canonical_kind", "links", ["canonical", "kind"])


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("recipient", sa.String, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("given_up_at", sa.BigInteger),
        sa.Column("reason", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"])
    op.create_index("ix_outbox_recipient_kind_created_at", "outbox", ["recipient", "kind", "created_at"])
    op.create_index("ix_outbox_expires_at", "outbox", ["expires_at"])
