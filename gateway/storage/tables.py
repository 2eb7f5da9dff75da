"""The tables. What a migration builds up step by step must come out as this; a test compares them.

Times are integers, microseconds since the epoch: the same on both databases, whatever time zone a server has.
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
    func,
    literal_column,
)
from sqlalchemy.types import TypeDecorator

VERSION_TABLE: Final = "gateway_schema"  # Alembic's: one row with the version of the schema
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A point in time: an aware datetime here, microseconds since the epoch there."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# Byte order, whatever locale the server has: pages follow each other without gaps, and a prefix can use the index.
_BytewiseString = String().with_variant(String(collation="C"), "postgresql")
_AutoInteger = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows in INTEGER columns only

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row: a random id, by which replicas that share a Redis know each other.
installation: Final = Table("installation", metadata, Column("id", String, primary_key=True))

users: Final = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False),  # as its owner wrote it
    Column("canonical", _BytewiseString, nullable=False, unique=True),  # what no other account may have
    Column("password_hash", String, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),  # grows with every change of the record
    Column("created_at", Instant, nullable=False),
)
# The domain of an address with its @: what is left once all that the other characters can take off at the left is gone.
# Both databases know these functions by these names, and an index can be made of them.
at_domain: Final = func.ltrim(
    users.c.canonical, func.replace(users.c.canonical, literal_column("'@'"), literal_column("''")), type_=String
)
Index("ix_users_is_active_canonical", users.c.is_active, users.c.canonical)  # lists of those who are, or are not
Index("ix_users_at_domain", at_domain, users.c.canonical)  # lists of those of one domain

user_roles: Final = Table(
    "user_roles",
    metadata,
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String, primary_key=True),
    Index(None, "role", "user_id"),  # who has this role: the last administrator, lists
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),  # the `sid` of its access tokens
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("family", LargeBinary, nullable=False, unique=True),  # digest of what its refresh tokens have in common
    Column("created_at", Instant, nullable=False),
    Column("used_at", Instant, nullable=False),  # opened or refreshed
    Column("expires_at", Instant, nullable=False),  # when its refresh token ends
    Column("access_until", Instant, nullable=False),  # when the last of its access tokens is expired everywhere
    Column("ended_at", Instant),
    Column("end_reason", String),
    Column("address", String, nullable=False),
    Column("user_agent", String, nullable=False),
    Index(None, "user_id", "access_until"),  # the ended ones that still matter; those of one user
)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("session_id", String, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("replaced_at", Instant),
    Column("seed", LargeBinary),  # its successor is made from this and the token itself, see identity/refresh.py
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("roles", JSON, nullable=False),  # what it may at most: a list of names
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
    Column("ended_until", Instant),  # set: it was deleted, and until then that must be known everywhere
    Index(None, "user_id", "ended_until"),  # those of one user; the ended ones that still matter
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", _AutoInteger, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("action", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("subject", String, nullable=False),  # a user id; it outlives the user, so it refers to nothing
    Column("address", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("before", JSON(none_as_null=True)),
    Column("after", JSON(none_as_null=True)),
    # The trail is read from the newest on, all of it or what is about one thing.
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
    Column("version", BigInteger, nullable=False),  # grows with every change, also when it is let in again
    Column("at", Instant, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", String, nullable=False),
)
