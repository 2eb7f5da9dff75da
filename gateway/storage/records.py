"""Reads user records. One statement reads everything about one user, in one round trip and as of one moment."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, ScalarSelect, Select, bindparam, func, select

from gateway.identity.user import UserRecord
from gateway.storage.tables import Instant, api_keys, sessions, user_roles, users

Clock = Callable[[], float]

# Neither role names nor session ids contain line breaks: the service checks role names, and the alphabet of session ids
# has none.
_SEPARATOR: Final = "\n"


def instant(clock: Clock) -> datetime:
    """Return the time of a clock that counts seconds since the epoch."""
    return datetime.fromtimestamp(clock(), UTC)


def _roles() -> ScalarSelect[str]:
    names = func.aggregate_strings(user_roles.c.role, _SEPARATOR)
    return select(names).where(user_roles.c.user_id == users.c.id).scalar_subquery()


def _ended_sessions(now: BindParameter[datetime]) -> ScalarSelect[str]:
    ids = func.aggregate_strings(sessions.c.id, _SEPARATOR)
    return (
        select(ids)
        .where(sessions.c.user_id == users.c.id, sessions.c.ended_at.is_not(None), sessions.c.access_until > now)
        .scalar_subquery()
    )


def _ended_keys(now: BindParameter[datetime]) -> ScalarSelect[str]:
    ids = func.aggregate_strings(api_keys.c.id, _SEPARATOR)
    return select(ids).where(api_keys.c.user_id == users.c.id, api_keys.c.ended_until > now).scalar_subquery()


# The statement for all reads of records. `now` is a parameter.
RECORDS: Final[Select[Any]] = select(
    users.c.id,
    users.c.email,
    users.c.is_active,
    users.c.created_at,
    users.c.version,
    _roles().label("roles"),
    _ended_sessions(bindparam("now", type_=Instant)).label("ended"),
    _ended_keys(bindparam("now", type_=Instant)).label("ended_keys"),
)
_BY_ID: Final = RECORDS.where(users.c.id == bindparam("user_id"))
_BY_EMAIL: Final = RECORDS.where(users.c.canonical == bindparam("canonical"))


def record_of(row: Sequence[Any]) -> UserRecord:
    """Build the record from a row of RECORDS."""
    user_id, email, is_active, created_at, version, roles, ended, ended_keys = row[:8]
    return UserRecord(user_id, email, is_active, _parts(roles), created_at, version, _parts(ended) | _parts(ended_keys))


def _parts(text: str | None) -> frozenset[str]:
    return frozenset(text.split(_SEPARATOR)) if text else frozenset()


def record_by_id(connection: Connection, user_id: str, now: datetime) -> UserRecord | None:
    row = connection.execute(_BY_ID, {"user_id": user_id, "now": now}).one_or_none()
    return None if row is None else record_of(row)


def record_by_email(connection: Connection, canonical: str, now: datetime) -> UserRecord | None:
    row = connection.execute(_BY_EMAIL, {"canonical": canonical, "now": now}).one_or_none()
    return None if row is None else record_of(row)
