"""How a user record is read: all about one user in one statement, so that it is one round trip and one moment."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, ScalarSelect, Select, bindparam, func, select

from gateway.identity.records import UserRecord
from gateway.storage.tables import Instant, api_keys, sessions, user_roles, users

Clock = Callable[[], float]

# Role names and session ids have no line breaks: the service sees to the one, the alphabet to the other.
_SEPARATOR: Final = "\n"


def instant(clock: Clock) -> datetime:
    """The time of a clock that counts seconds since the epoch."""
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


# One statement for every reading of records; `now` is a parameter.
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
    """The record in a row of RECORDS."""
    user_id, email, is_active, created_at, version, roles, ended, ended_keys = row[:8]
    return UserRecord(user_id, email, is_active, _parts(roles), created_at, version, _parts(ended) | _parts(ended_keys))


def _parts(text: str | None) -> frozenset[str]:
    return frozenset(text.split(_SEPARATOR)) if text else frozenset()


def record_by_id(connection: Connection, user_id: str, now: datetime) -> UserRecord | None:
    """The record of this id, or None."""
    row = connection.execute(_BY_ID, {"user_id": user_id, "now": now}).one_or_none()
    return None if row is None else record_of(row)


def record_by_email(connection: Connection, canonical: str, now: datetime) -> UserRecord | None:
    """The record of this canonical address, or None."""
    row = connection.execute(_BY_EMAIL, {"canonical": canonical, "now": now}).one_or_none()
    return None if row is None else record_of(row)
