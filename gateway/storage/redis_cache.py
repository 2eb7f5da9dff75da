"""User records in Redis, where all replicas find them.

A value is `VERSION LIFETIME JSON`: the record's version, the milliseconds it may live from the moment the database was
asked, and the record, or null for a user who is gone. It is written by a script that never replaces a newer version,
so a replica that read the database before a change and writes after it does no harm. A value that is none of ours is
no value.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from gateway.errors import StorageUnavailable
from gateway.identity.records import UserRecord
from gateway.storage.redis import RedisLink, user_key

_GONE: Final = (1 << 53) - 1  # newer than any record; the largest integer that Lua counts exactly

# Keys: the user's. Arguments: value, version, when it ends (milliseconds since the epoch); channel and message.
# Where the value cannot be kept (no memory left) the old one must go all the same.
_STORE: Final = """
local held = redis.pcall('GET', KEYS[1])
local version = type(held) == 'string' and tonumber(string.match(held, '^(%d+) ') or '') or -1
if tonumber(ARGV[2]) >= version then
  local kept = redis.pcall('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[3])
  if kept.err then redis.call('DEL', KEYS[1]) end
end
if ARGV[4] then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return 1
"""
_LOAD: Final = "return {redis.pcall('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"


class RedisCache:
    """The shared cache. `ttl`: seconds that a record may be used after the database was asked for it."""

    def __init__(self, link: RedisLink, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._ttl = ttl
        self._clock = clock

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        """The record and the seconds it may still be used; None: not there, or Redis is out of order."""
        try:
            reply = await self._link.run(lambda client: client.eval(_LOAD, 1, user_key(user_id)))
        except StorageUnavailable:
            return None
        value, left = reply
        found = _decoded(value) if isinstance(value, bytes) and left > 0 else None
        if found is None or found[0].id != user_id:
            return None
        record, lifetime = found
        # The age is what counts: another replica may have been told another lifetime.
        age = lifetime - left / 1000
        return (record, min(left / 1000, self._ttl - age)) if age < self._ttl else None

    async def put(self, record: UserRecord, *, age: float) -> None:
        """Keep a record that was asked of the database `age` seconds ago, unless a newer version is there."""
        try:
            await self.store(record.id, record, age=age)
        except StorageUnavailable:
            return

    async def store(
        self, user_id: str, record: UserRecord | None, *, age: float = 0.0, publish: tuple[str, str] | None = None
    ) -> None:
        """Keep a record, or that the user is gone, and publish a message on a channel in the same step.

        Raises StorageUnavailable.
        """
        version = _GONE if record is None else record.version
        value = b"%d %d %b" % (version, self._ttl * 1000, _encoded(record))
        ends_at = self._link.server_time(self._clock() - age + self._ttl)
        arguments = (value, version, ends_at, *(publish or ()))
        await self._link.run(lambda client: client.eval(_STORE, 1, user_key(user_id), *arguments))


def _encoded(record: UserRecord | None) -> bytes:
    if record is None:
        return b"null"
    members = {
        "id": record.id,
        "email": record.email,
        "active": record.is_active,
        "roles": sorted(record.roles),
        "created": record.created_at.isoformat(),
        "ended": sorted(record.ended_sessions),
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _decoded(value: bytes) -> tuple[UserRecord, float] | None:
    """The record of a value and its lifetime in seconds; None for a value that is not exactly one of ours."""
    try:
        version, lifetime, text = value.split(b" ", 2)
        members: dict[str, Any] = json.loads(text)
        record = UserRecord(
            id=_text(members["id"]),
            email=_text(members["email"]),
            is_active=members["active"],
            roles=frozenset(map(_text, members["roles"])),
            created_at=datetime.fromisoformat(members["created"]),
            version=int(version),
            ended_sessions=frozenset(map(_text, members["ended"])),
        )
        seconds = int(lifetime) / 1000
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (record, seconds) if isinstance(record.is_active, bool) and record.created_at.tzinfo else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value
