"""The steps that changes of users share. Each function runs inside a write transaction.

A transaction that changes a user first locks the row of that user. Changes of one user therefore run one after the
other, and two transactions never deadlock over a user.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    exists,
    insert,
    select,
    text,
    true,
    update,
)

from gateway.accounts.store import CookieRenewal, NewSession
from gateway.errors import Refusal
from gateway.identity.user import PASSWORD, UserRecord
from gateway.storage.tables import BROWSER, Instant, api_keys, refresh_tokens, sessions, user_roles, users
from gateway.storage.user_queries import record_by_id

COPIES_LAST: Final = 120.0  # seconds: the default of cache.user_ttl, and a clock difference
# The number of a PostgreSQL advisory lock. Any number works that nothing else in this database uses.
_ADMINISTRATION: Final = 0x67617465_61646D69
_LINKS_TO_ADDRESSES: Final = 0x6C696E6B  # the first number of a lock of two numbers
_LOCKED_USER: Final = (
    select(users.c.is_active, users.c.password_hash).where(users.c.id == bindparam("user_id")).with_for_update()
)


class LockedUser(NamedTuple):
    """The columns that are checked before a user is changed."""

    is_active: bool
    password_hash: str | None


def lock_user(connection: Connection, user_id: str) -> LockedUser | None:
    """Lock a user until the transaction ends; None for an unknown user. (SQLite has one writer and needs no lock.)"""
    row = connection.execute(_LOCKED_USER, {"user_id": user_id}).one_or_none()
    return None if row is None else LockedUser(*row)


def lock_administration(connection: Connection) -> None:
    """Lock the set of administrators until the transaction ends.

    When two administrators demote each other at the same time, the second transaction must see the change of the first.
    Take this lock before the lock of any user.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMINISTRATION})


def lock_address(connection: Connection, canonical: str) -> None:
    """Lock the links of an address without an account until the transaction ends.

    Two replicas that invite an address at the same time would otherwise each leave an open invitation. (SQLite has one
    writer and needs no lock.)
    """
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(:kind, hashtext(:address))")
        connection.execute(lock, {"kind": _LINKS_TO_ADDRESSES, "address": canonical})


def is_only_replica(connection: Connection, lock: int) -> bool:
    """Take the advisory lock of a periodic task for this transaction. False if another replica has it. SQLite has one
    writer and needs no lock."""
    if connection.dialect.name != "postgresql":
        return True
    taken = connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": lock})
    return bool(taken.scalar_one())


def changed(connection: Connection, user_id: str, now: datetime) -> UserRecord:
    """Raise the version of a changed user and return the new record."""
    connection.execute(update(users).where(users.c.id == user_id).values(version=users.c.version + 1))
    record = record_by_id(connection, user_id, now)
    assert record is not None, "the user's row is locked by this transaction"
    return record


def has_active(connection: Connection, roles: Collection[str]) -> bool:
    """Return whether any active user has one of these roles."""
    found = exists().where(
        user_roles.c.role.in_(roles), user_roles.c.user_id == users.c.id, users.c.is_active == true()
    )
    return bool(connection.execute(select(found)).scalar_one())


def require_admin(connection: Connection, admin_roles: Collection[str]) -> None:
    """Raise Refusal("last_admin") if no active user has any of these roles."""
    if not has_active(connection, admin_roles):
        raise Refusal("last_admin")


def grant(connection: Connection, user_id: str, roles: Collection[str]) -> None:
    """Grant roles to a user who has none of them."""
    if roles:
        connection.execute(insert(user_roles), [{"user_id": user_id, "role": role} for role in sorted(roles)])


class Ending(NamedTuple):
    """The end of sessions. `copies_until` is the time until which a replica can hold a copy of a browser session, and
    therefore must know of its end."""

    reason: str
    at: datetime
    copies_until: datetime


def end_sessions(
    connection: Connection, user_id: str, ending: Ending, condition: ColumnElement[bool] | None = None
) -> int:
    """End the sessions of a user that are open and match the condition (None: all). Return their number."""
    ended = update(sessions).where(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
    if condition is not None:
        ended = ended.where(condition)
    copies_until = bindparam(None, ending.copies_until, type_=Instant)
    known_until = case((sessions.c.kind == BROWSER, copies_until), else_=sessions.c.access_until)
    values = {"ended_at": ending.at, "end_reason": ending.reason, "access_until": known_until}
    return connection.execute(ended.values(values)).rowcount


def renew_cookie(connection: Connection, session_id: str, renewal: CookieRenewal, now: datetime) -> bool:
    """Give an open browser session a new cookie after a proof of the password. Return whether the session is open and
    the new cookie is its current one: another request can have renewed it first. The previous cookie keeps its
    authentication, and the one before it ends."""
    columns = sessions.c
    is_open = (columns.id == session_id, columns.kind == BROWSER, columns.ended_at.is_(None))
    amr = case((columns.amr.contains(PASSWORD), columns.amr), else_=columns.amr + f" {PASSWORD}")
    renewed = (
        update(sessions)
        .where(*is_open, columns.digest == renewal.replaced)
        .values(
            digest=renewal.digest,
            previous_digest=columns.digest,
            previous_until=bindparam(None, now + timedelta(seconds=renewal.grace), type_=Instant),
            previous_authenticated_at=columns.authenticated_at,
            previous_acr=columns.acr,
            previous_amr=columns.amr,
            authenticated_at=now,
            amr=amr,
            used_at=now,
        )
    )
    if connection.execute(renewed).rowcount > 0:
        return True
    agreed = select(columns.id).where(*is_open, columns.digest == renewal.digest)
    return connection.execute(agreed).scalar_one_or_none() is not None


def end_keys(
    connection: Connection, user_id: str, known_until: datetime, condition: ColumnElement[bool] | None = None
) -> int:
    """End the API keys of a user that are valid and match the condition (None: all). Return their number. The record of
    the user lists them as ended until `known_until`."""
    ending = update(api_keys).where(api_keys.c.user_id == user_id, api_keys.c.ended_until.is_(None))
    if condition is not None:
        ending = ending.where(condition)
    return connection.execute(ending.values(ended_until=known_until)).rowcount


def add_session(connection: Connection, user_id: str, session: NewSession, now: datetime) -> None:
    """Insert a session and its first refresh token."""
    values = {
        "id": session.id,
        "user_id": user_id,
        "family": session.token.family_digest,
        "created_at": now,
        "used_at": now,
        "authenticated_at": now,
        "expires_at": session.expires_at,
        "access_until": session.access_until,
        "address": session.origin.address,
        "user_agent": session.origin.user_agent,
    }
    connection.execute(insert(sessions).values(**values))
    connection.execute(insert(refresh_tokens).values(digest=session.token.digest, session_id=session.id))
