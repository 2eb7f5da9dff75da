"""How user records lie in Redis.

A value is `VERSION LIFETIME JSON`: the record's version, the milliseconds it may live from the moment the database was
asked, and the record, or null for a user who is gone. It is written by a script that never replaces a newer version, so
a replica that read the database before a change and writes after it does no harm. A value that is none of ours is no
value.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster

from gateway.identity.records import UserRecord
from gateway.storage.redis import NAMESPACE, RedisLink
from gateway.storage.redis_address import Client

CHANNEL: Final = f"{NAMESPACE}changes"

_GONE: Final = (1 << 53) - 1  # newer than any record; the largest integer that Lua counts exactly

# Keys: the users'. Arguments: the channel; then for each key its value, version, end (milliseconds since the epoch) and
# message ('': none). Where a value cannot be kept (no memory left) the old one must go all the same.
_STORE: Final = """
for index, key in ipairs(KEYS) do
  local at = index * 4 - 2
  local held = redis.pcall('GET', key)
  local version = type(held) == 'string' and tonumber(string.match(held, '^(%d+) ') or '') or -1
  if tonumber(ARGV[at + 1]) >= version then
    local kept = redis.pcall('SET', key, ARGV[at], 'PXAT', ARGV[at + 2])
    if kept.err then redis.call('DEL', key) end
  end
  if ARGV[at + 3] ~= '' then redis.call('PUBLISH', ARGV[1], ARGV[at + 3]) end
end
return #KEYS
"""
_LOAD: Final = """
local found = {}
for index, key in ipairs(KEYS) do
  found[index] = {redis.pcall('GET', key), redis.call('PTTL', key)}
end
return found
"""


class Shared(NamedTuple):
    """A record as it was found, and the seconds since the database was asked for it."""

    record: UserRecord
    age: float


class Write(NamedTuple):
    """A record that was asked of the database at `asked_at`, or None for a user who is gone; `message` is published."""

    user_id: str
    record: UserRecord | None
    asked_at: float
    message: str = ""


class RedisRecords:
    """Reads and writes records. `ttl`: seconds that one may be used after the database was asked for it. `clock` is the
    link's: it tells when that was."""

    def __init__(self, link: RedisLink, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self.clock = clock
        self.ttl = ttl

    async def load(self, user_ids: Sequence[str]) -> list[Shared | None]:
        """What is there of these users, in one round trip. Raises StorageUnavailable."""
        replies = await self._link.run(lambda client: _load(client, [user_key(user_id) for user_id in user_ids]))
        return [_found(user_id, *reply) for user_id, reply in zip(user_ids, replies, strict=True)]

    async def store(self, writes: Sequence[Write]) -> None:
        """Keep records where nothing newer is there, and publish the messages, in one round trip.

        Raises StorageUnavailable.
        """
        arguments = [self._arguments(write) for write in writes]
        keys = [user_key(write.user_id) for write in writes]
        await self._link.run(lambda client: _store(client, keys, arguments))

    def _arguments(self, write: Write) -> tuple[str | bytes | int, ...]:
        version = _GONE if write.record is None else write.record.version
        value = b"%d %d %b" % (version, self.ttl * 1000, _encoded(write.record))
        return value, version, self._link.server_time(write.asked_at + self.ttl), write.message


def user_key(user_id: str) -> str:
    """The key of a user's record. The id comes last and whole, so no two users share one (CVE-2026-33729)."""
    return f"{NAMESPACE}user:{user_id}"


async def _load(client: Client, keys: Sequence[str]) -> list[Any]:
    if not isinstance(client, RedisCluster):
        replies: list[Any] = await client.eval(_LOAD, len(keys), *keys)
        return replies
    pipeline = client.pipeline()  # in a cluster the keys lie on different nodes
    for key in keys:
        pipeline.eval(_LOAD, 1, key)
    return [reply[0] for reply in await pipeline.execute()]


async def _store(client: Client, keys: Sequence[str], arguments: Sequence[tuple[str | bytes | int, ...]]) -> None:
    if not isinstance(client, RedisCluster):
        await client.eval(_STORE, len(keys), *keys, CHANNEL, *chain.from_iterable(arguments))
        return
    pipeline = client.pipeline()
    for key, of_key in zip(keys, arguments, strict=True):
        pipeline.eval(_STORE, 1, key, CHANNEL, *of_key)
    await pipeline.execute()


def _found(user_id: str, value: Any, left: int) -> Shared | None:
    """What a value says. `left`: the milliseconds it still has; none of ours is without an end."""
    if not isinstance(value, bytes) or left <= 0:
        return None
    try:
        version, lifetime, text = value.split(b" ", 2)
        record = _decoded(json.loads(text), int(version))
        age = (int(lifetime) - left) / 1000
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Shared(record, age) if record.id == user_id else None


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


def _decoded(members: dict[str, Any], version: int) -> UserRecord:
    """The record. Raises ValueError, TypeError or KeyError where a member is missing or of another type."""
    created_at = datetime.fromisoformat(members["created"])
    if created_at.tzinfo is None:
        raise ValueError("a time without its zone")
    return UserRecord(
        id=_typed(members["id"], str),
        email=_typed(members["email"], str),
        is_active=_typed(members["active"], bool),
        roles=_strings(members["roles"]),
        created_at=created_at,
        version=version,
        ended_sessions=_strings(members["ended"]),
    )


def _strings(values: Any) -> frozenset[str]:
    return frozenset(_typed(value, str) for value in _typed(values, list))


def _typed(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
