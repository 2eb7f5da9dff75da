"""The tables of the newest schema. A test checks that the migrations make the same tables.

Times are integers, microseconds since the epoch: the same on both databases, independent of the server's time zone.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
    func,
    literal_column,
)
from sqlalchemy.types import TypeDecorator

VERSION_TABLE: Final = "gateway_schema"  # Alembic's table: one row with the version of the schema
BROWSER: Final = "browser"  # the kind of a session whose credential is a cookie
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A point in time: an aware datetime in Python, microseconds since the epoch in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# Byte order, independent of the server's locale: pages have no gaps, and the search for a prefix can use the index.
_BytewiseString = String().with_variant(String(collation="C"), "postgresql")
_AutoInteger = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in INTEGER columns

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row: a random id, by which replicas that share a Redis recognise each other.
installation: Final = Table("installation", metadata, Column("id", String, primary_key=True))

users: Final = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False),  # as the user wrote it
    Column("canonical", _BytewiseString, nullable=False, unique=True),  # unique among all accounts
    Column("email_verified_at", Instant),
    Column("password_hash", String),  # none for an account without a password
    Column("language", String),  # of its mail
    Column("is_active", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with every change of the record
    Column("created_at", Instant, nullable=False),
)
# The domain of an address with its @: the result of trimming all other characters from the left. Both databases have
# these functions under these names and can index them.
at_domain: Final = func.ltrim(
    users.c.canonical, func.replace(users.c.canonical, literal_column("'@'"), literal_column("''")), type_=String
)
Index("ix_users_is_active_canonical", users.c.is_active, users.c.canonical)  # lists of active or disabled users
Index("ix_users_at_domain", at_domain, users.c.canonical)  # lists of the users of one domain

user_roles: Final = Table(
    "user_roles",
    metadata,
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String, primary_key=True),
    Index(None, "role", "user_id"),  # users of a role: the last administrator, lists
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),  # the `sid` of its access tokens
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String, nullable=False, server_default="token"),  # token | browser
    # Digest of the part that its refresh tokens share. A browser session has no refresh token, and a random value here.
    Column("family", LargeBinary, nullable=False, unique=True),
    Column("created_at", Instant, nullable=False),
    Column("used_at", Instant, nullable=False),  # opened or refreshed; of a browser session: presented
    Column("expires_at", Instant, nullable=False),  # the expiry of its refresh token, or of the browser session
    # The time at which its last access token has expired everywhere. Of an ended browser session: the time until which
    # replicas must know of the end.
    Column("access_until", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("end_reason", String),
    Column("address", String, nullable=False),
    Column("user_agent", String, nullable=False),
    # The last authentication of the user: its time, acr and amr (separated by spaces) of RFC 9068 2.2.1.
    Column("authenticated_at", Instant, nullable=False, server_default="0"),
    Column("acr", String, nullable=False, server_default="aal1"),
    Column("amr", String, nullable=False, server_default="pwd"),
    # Of browser sessions only. A renewed cookie has a previous value, which stays good for requests on their way and
    # keeps the authentication that it had.
    Column("remember", Boolean, nullable=False, server_default=false()),
    Column("digest", LargeBinary),
    Column("previous_digest", LargeBinary),
    Column("previous_until", Instant),
    Column("previous_authenticated_at", Instant),
    Column("previous_acr", String),
    Column("previous_amr", String),
    Index(None, "digest", unique=True),
    Index(None, "previous_digest", unique=True),
    Index(None, "user_id", "access_until"),  # ended sessions that tokens can still name; sessions of one user
)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("replaced_at", Instant),
    Column("seed", LargeBinary),  # the successor is derived from this and the token, see identity/refresh_token.py
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("roles", JSON, nullable=False),  # the most roles that the key can have, a list of names
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
    Column("ended_until", Instant),  # set for a deleted key: the time until which replicas must know of the deletion
    Index(None, "user_id", "ended_until"),  # keys of one user; deleted keys that replicas must know of
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", _AutoInteger, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("action", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("subject", String, nullable=False),  # a user id; it outlives the user, so it is no foreign key
    Column("address", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    # The trail is read from the newest record, as a whole or by subject, actor or action.
    Index(None, "at", "id"),
    Index(None, "subject", "at", "id"),
    Index(None, "actor", "at", "id"),
    Index(None, "action", "at", "id"),
)

blocked_subjects: Final = Table(
    "blocked_subjects",
    metadata,
    Column("subject", _BytewiseString, primary_key=True),  # NAME|SUB
    Column("is_blocked", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with every change, unblocking included
    Column("at", Instant, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", String, nullable=False),
)

# One-time links sent by mail. A link names an account, or for an invitation an address without one.
links: Final = Table(
    "links",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE")),
    Column("canonical", _BytewiseString, nullable=False),  # the address that the link was sent to
    Column("data", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
    Column("used_at", Instant),
    Index(None, "user_id", "kind"),
    Index(None, "canonical", "kind"),
)

# Mail to send. A sent row stays for a while, so that the same notice is not sent again at once.
outbox: Final = Table(
    "outbox",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("recipient", String, nullable=False),
    Column("data", LargeBinary, nullable=False),  # encrypted
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),  # no attempt is made after this time
    Column("attempts", Integer, nullable=False),
    Column("lease_until", Instant),  # one replica sends it until this time
    Column("sent_at", Instant),
    Column("given_up_at", Instant),
    Column("reason", String),  # of the last failure
    Index(None, "due_at"),
    Index(None, "recipient", "kind", "created_at"),
    Index(None, "expires_at"),
)
