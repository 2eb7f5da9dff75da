"""API keys in the database.

The row of a deleted key stays until no replica can hold a copy of the key. Until then the record of the owner lists the
key as ended.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select, update

from gateway.errors import Refusal
from gateway.identity.api_keys import MAX_KEYS, ApiKey, KnownKey, NewApiKey
from gateway.identity.user import Actor, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.outbox import Outbox
from gateway.storage.tables import api_keys, sessions
from gateway.storage.transactions import changed, end_keys, lock_user
from gateway.storage.user_queries import Clock, instant

_NOTED_EVERY: Final = timedelta(minutes=1)
_SHOWN: Final = (
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.roles,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.last_used_at,
)
_KNOWN: Final = select(
    api_keys.c.digest,
    api_keys.c.id,
    api_keys.c.user_id,
    api_keys.c.roles,
    api_keys.c.expires_at,
    api_keys.c.ended_until.is_not(None),
).where(api_keys.c.digest.in_(bindparam("digests", expanding=True)))


class ApiKeys:
    """Implements ApiKeyStore and KeyReader. `clock` returns seconds since the epoch."""

    def __init__(self, database: Database, *, outbox: Outbox | None = None, clock: Clock = time.time) -> None:
        self._database = database
        self._outbox = Outbox(database, None) if outbox is None else outbox
        self._clock = clock

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownKey]:
        """Return the keys of these digests, in one round trip."""
        found = await self._database.read(lambda c: c.execute(_KNOWN, {"digests": list(digests)}).all())
        return {
            digest: KnownKey(key_id, user_id, frozenset(roles), expires_at, bool(has_ended))
            for digest, key_id, user_id, roles, expires_at, has_ended in found
        }

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Store the times of last use. Skip keys whose stored time is less than a minute old."""

        def work(connection: Connection) -> None:
            for key_id in connection.execute(_outdated(uses)).scalars().all():
                used = update(api_keys).where(api_keys.c.id == key_id)
                connection.execute(used.values(last_used_at=uses[key_id]))

        await self._database.write(work)

    async def living(self, user_id: str) -> tuple[ApiKey, ...]:
        """Return the keys of a user, newest first."""
        which = and_(api_keys.c.user_id == user_id, _lives(instant(self._clock)))
        listing = select(*_SHOWN).where(which).order_by(api_keys.c.created_at.desc(), api_keys.c.id).limit(MAX_KEYS)
        rows = await self._database.read(lambda connection: connection.execute(listing).all())
        return tuple(_key_of(row) for row in rows)

    async def create(self, key: NewApiKey, *, by: Actor) -> ApiKey | None:
        """Create a key. Return None where the owner is disabled or gone, or the session of the request has ended."""
        now = instant(self._clock)

        def work(connection: Connection) -> ApiKey | None:
            user = lock_user(connection, key.user_id)
            if user is None or not user.is_active or not _is_open(connection, key):
                return None
            _make_room(connection, key.user_id, now)
            connection.execute(insert(api_keys).values(**_columns(key), created_at=now))
            write_audit(
                connection, AuditedTransaction("api_key.created", key.user_id, after=_audited(key)), by=by, at=now
            )
            self._outbox.notice(connection, "api-key-created", key.user_id, now)
            return ApiKey(key.id, key.name, key.roles, now, key.expires_at, None)

        return await self._database.write(work)

    async def end(self, user_id: str, key_id: str, *, known_until: datetime, by: Actor) -> UserRecord | None:
        """Delete a key that has not ended."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            which = and_(api_keys.c.id == key_id, _lives(now))
            if lock_user(connection, user_id) is None or not end_keys(connection, user_id, known_until, which):
                return None
            write_audit(
                connection, AuditedTransaction("api_key.deleted", user_id, before={"id": key_id}), by=by, at=now
            )
            return changed(connection, user_id, now)

        return await self._database.write(work)


def _lives(now: datetime) -> ColumnElement[bool]:
    return and_(api_keys.c.ended_until.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))


def _is_open(connection: Connection, key: NewApiKey) -> bool:
    """Return whether the session of the request is still open."""
    which = and_(sessions.c.id == key.session_id, sessions.c.user_id == key.user_id, sessions.c.ended_at.is_(None))
    return connection.execute(select(sessions.c.id).where(which)).one_or_none() is not None


def _make_room(connection: Connection, user_id: str, now: datetime) -> None:
    """Delete the rows of expired keys, and of deleted keys that no replica can hold any more.

    Raises Refusal("too_many_api_keys") at the limit, which also bounds the record of the user.
    """
    of_user = api_keys.c.user_id == user_id
    connection.execute(
        delete(api_keys).where(of_user, or_(api_keys.c.ended_until <= now, api_keys.c.expires_at <= now))
    )
    if connection.execute(select(func.count()).select_from(api_keys).where(of_user)).scalar_one() >= MAX_KEYS:
        raise Refusal("too_many_api_keys")


def _outdated(uses: Mapping[str, datetime]) -> Any:
    """Select the ids of the keys to update. Rows that another replica updates or deletes at the same time are skipped,
    so no transaction waits here (PostgreSQL; SQLite has one writer)."""
    before = min(uses.values()) - _NOTED_EVERY
    old = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < before)
    return select(api_keys.c.id).where(api_keys.c.id.in_(uses), old).with_for_update(skip_locked=True)


def _columns(key: NewApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "user_id": key.user_id,
        "digest": key.digest,
        "name": key.name,
        "roles": sorted(key.roles),
        "expires_at": key.expires_at,
    }


def _audited(key: NewApiKey) -> dict[str, Any]:
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    return {"id": key.id, "name": key.name, "roles": sorted(key.roles), "expires_at": expires_at}


def _key_of(row: Sequence[Any]) -> ApiKey:
    key_id, name, roles, created_at, expires_at, last_used_at = row
    return ApiKey(key_id, name, frozenset(roles), created_at, expires_at, last_used_at)
