"""Stores user records in Redis.

`encoding.py` defines the format of a value. A script writes it and never replaces a newer version, so a replica
that read the database before a change and writes after it does no harm. A value that is not authentic counts as
missing. It is counted, logged and deleted, because its version can be higher than that of any record.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster

from gateway.errors import StorageUnavailable
from gateway.identity.user import UserRecord
from gateway.samples import LabeledCounter, Sample
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.encoding import GONE, MAX_VALUE, NotAuthentic, RedisValues, Shared
from gateway.storage.redis.url import Client

_ABSENT: Final = -2  # the reply of PTTL for a missing key
_REPORT_EVERY: Final = 60.0  # seconds between two log lines about values of one kind that are not authentic

log: Final = logging.getLogger("gateway.storage.redis")

# KEYS: those of the users. ARGV: the channel; then for each key its value, version, end (milliseconds since the epoch)
# and message ('': none). If the new value cannot be stored (out of memory), the old one is deleted all the same.
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
# KEYS: those of the users. ARGV: the last byte of a value to read.
_LOAD: Final = """
local found = {}
for index, key in ipairs(KEYS) do
  found[index] = {redis.pcall('GETRANGE', key, 0, ARGV[1]), redis.call('PTTL', key)}
end
return found
"""


class Write(NamedTuple):
    """A record read from the database at `asked_at`, or None for a deleted user. `message` is published."""

    user_id: str
    record: UserRecord | None
    asked_at: float
    message: bytes = b""


class RedisRecords:
    """Reads and writes records. `ttl` is the number of seconds for which a record can be used after its read from the
    database. `clock` is the link's and measures that time. Messages go to `channel`."""

    def __init__(
        self, link: RedisLink, values: RedisValues, *, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._values = values
        self.channel: Final = f"{link.prefix}changes"
        self.clock = clock
        self.ttl = ttl
        self._rejected = LabeledCounter("gateway_redis_rejected_total")
        self._reported_at: dict[str, float] = {}

    def key(self, user_id: str) -> str:
        """Return the key of a user's record. The id comes last and in full, so two users never share a key
        (CVE-2026-33729)."""
        return f"{self._link.prefix}user:{user_id}"

    async def load(self, user_ids: Sequence[str]) -> list[Shared | None]:
        """Return the stored records of these users, in one round trip. Raises StorageUnavailable."""
        keys = [self.key(user_id) for user_id in user_ids]
        replies = await self._link.run(lambda client: _load(client, keys))
        found: list[Shared | None] = []
        rejected = []
        for key, (value, left) in zip(keys, replies, strict=True):
            try:
                found.append(None if left == _ABSENT else self._read(key, value, left))
            except NotAuthentic:
                found.append(None)
                rejected.append(key)
        if rejected:
            await self._delete(rejected)
        return found

    def _read(self, key: str, value: Any, left: int) -> Shared | None:
        # The script returns an error for a key of another type. The gateway writes no value without an expiry.
        if not isinstance(value, bytes) or left < 0:
            raise NotAuthentic(key)
        return self._values.read_record(key, value, left)

    async def _delete(self, keys: Sequence[str]) -> None:
        for _ in keys:
            self.reject("record")
        with contextlib.suppress(StorageUnavailable):
            await self._link.run(lambda client: _delete(client, keys))

    async def store(self, writes: Sequence[Write]) -> None:
        """Store records unless newer ones are stored, and publish the messages, in one round trip.

        Raises StorageUnavailable.
        """
        keys = [self.key(write.user_id) for write in writes]
        arguments = [self._arguments(key, write) for key, write in zip(keys, writes, strict=True)]
        await self._link.run(lambda client: _store(client, self.channel, keys, arguments))

    def _arguments(self, key: str, write: Write) -> tuple[bytes | int, ...]:
        version = GONE if write.record is None else write.record.version
        value = self._values.record(key, write.record, lifetime=self.ttl, age=self.clock() - write.asked_at)
        return value, version, self._link.server_time(write.asked_at + self.ttl), write.message

    def message(self, channel: str, members: list[Any]) -> bytes:
        """Encode a message for a channel."""
        return self._values.message(channel, members)

    def read_message(self, channel: str, message: bytes) -> Any:
        """Decode a message from a channel. Raises NotAuthentic."""
        return self._values.read_message(channel, message)

    def reject(self, kind: str) -> None:
        """Count a record or message that is not authentic, and log it at most once a minute."""
        self._rejected.add(kind)
        now = self.clock()
        if now >= self._reported_at.get(kind, float("-inf")) + _REPORT_EVERY:
            self._reported_at[kind] = now
            log.warning(
                "Redis has a %s that no key of this gateway authenticates, and it is ignored: another client writes to "
                "this Redis, or a replica has other keys (tokens.keys, cache.key)",
                kind,
            )

    def samples(self) -> Iterator[Sample]:
        """Yield the number of rejected values."""
        yield from self._rejected.samples()


async def _load(client: Client, keys: Sequence[str]) -> list[Any]:
    if not isinstance(client, RedisCluster):
        replies: list[Any] = await client.eval(_LOAD, len(keys), *keys, MAX_VALUE - 1)
        return replies
    pipeline = client.pipeline()  # in a cluster the keys are on different nodes
    for key in keys:
        pipeline.eval(_LOAD, 1, key, MAX_VALUE - 1)
    return [reply[0] for reply in await pipeline.execute()]


async def _delete(client: Client, keys: Sequence[str]) -> None:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.delete(key)
    await pipeline.execute()


async def _store(
    client: Client, channel: str, keys: Sequence[str], arguments: Sequence[tuple[bytes | int, ...]]
) -> None:
    if not isinstance(client, RedisCluster):
        await client.eval(_STORE, len(keys), *keys, channel, *chain.from_iterable(arguments))
        return
    pipeline = client.pipeline()
    for key, of_key in zip(keys, arguments, strict=True):
        pipeline.eval(_STORE, 1, key, channel, *of_key)
    await pipeline.execute()
