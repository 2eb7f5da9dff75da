"""Queries for user records.

One statement reads everything about one user, in one round trip and as of one moment. A page of users reads a range of
an index, so its cost does not depend on the number of users.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    bindparam,
    exists,
    func,
    select,
    tuple_,
)

from gateway.accounts.store import Selection
from gateway.identity.user import UserRecord
from gateway.storage.tables import Instant, api_keys, at_domain, sessions, user_roles, users

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
    users.c.email_verified_at.is_not(None).label("email_verified"),
    users.c.password_hash.is_not(None).label("has_password"),
    _roles().label("roles"),
    _ended_sessions(bindparam("now", type_=Instant)).label("ended"),
    _ended_keys(bindparam("now", type_=Instant)).label("ended_keys"),
)
_BY_ID: Final = RECORDS.where(users.c.id == bindparam("user_id"))
_BY_EMAIL: Final = RECORDS.where(users.c.canonical == bindparam("canonical"))


def record_of(row: Sequence[Any]) -> UserRecord:
    """Build the record from a row of RECORDS."""
    user_id, email, is_active, created_at, version, verified, has_password, roles, ended, ended_keys = row[:10]
    return UserRecord(
        id=user_id,
        email=email,
        is_active=is_active,
        roles=_parts(roles),
        created_at=created_at,
        version=version,
        ended_sessions=_parts(ended) | _parts(ended_keys),
        email_verified=bool(verified),
        has_password=bool(has_password),
    )


def _parts(text: str | None) -> frozenset[str]:
    return frozenset(text.split(_SEPARATOR)) if text else frozenset()


def record_by_id(connection: Connection, user_id: str, now: datetime) -> UserRecord | None:
    row = connection.execute(_BY_ID, {"user_id": user_id, "now": now}).one_or_none()
    return None if row is None else record_of(row)


def record_by_email(connection: Connection, canonical: str, now: datetime) -> UserRecord | None:
    row = connection.execute(_BY_EMAIL, {"canonical": canonical, "now": now}).one_or_none()
    return None if row is None else record_of(row)


FEW_HOLDERS: Final = 1000  # holders of a role
# Sorts after every continuation of a prefix. Addresses do not contain it, because it is a noncharacter (Unicode 23.7).
_LAST: Final = "\U0010ffff"


def selected(connection: Connection, selection: Selection) -> Select[Any]:
    """Build the statement for a page. It selects one row more than the page, which shows whether another page
    follows."""
    by_domain = selection.query.startswith("@")
    order = (at_domain, users.c.canonical) if by_domain else (users.c.canonical,)
    query = RECORDS.add_columns(users.c.canonical).order_by(*order).limit(selection.limit + 1)
    if selection.query:
        query = query.where(order[0] >= selection.query, order[0] < selection.query + _LAST)
    if selection.after is not None:
        query = query.where(_behind(selection.after, by_domain=by_domain))
    if selection.active is not None:
        query = query.where(users.c.is_active == selection.active)
    if selection.role is not None:
        query = query.where(_has_role(connection, selection.role))
    return query


def _behind(canonical: str, *, by_domain: bool) -> ColumnElement[bool]:
    if not by_domain:
        return users.c.canonical > canonical
    _, at, domain = canonical.rpartition("@")
    return tuple_(at_domain, users.c.canonical) > tuple_(at + domain, canonical)


def _has_role(connection: Connection, role: str) -> ColumnElement[bool]:
    """Build the condition that a user has a role.

    For a rare role the quick way is to read its holders, for a common one to scan all users in order. The databases'
    planners cannot tell the two cases apart.
    """
    holders = select(user_roles.c.user_id).where(user_roles.c.role == role).limit(FEW_HOLDERS + 1)
    ids = connection.execute(holders).scalars().all()
    if len(ids) <= FEW_HOLDERS:
        return users.c.id.in_(ids)
    return exists().where(user_roles.c.user_id == users.c.id, user_roles.c.role == role)
