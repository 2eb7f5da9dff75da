"""Counts of failed attempts in Redis, shared by all replicas.

A count is `FAILURES BEGAN`: the number, and the time of the first failure in microseconds of the server's clock. It
expires with its window or ban, so Redis keeps only recent failures. A pardon is the time at which it was given: it
voids counts that began earlier. The count and the pardon of one owner have the same hash tag, so a cluster keeps them
on the same node.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from redis.asyncio import RedisCluster

from gateway.accounts.failed_attempts import Counter, SharedCount, UnreportedCounts
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.url import Client

# KEYS: a count and the pardon of its owner, in turn. ARGV for each: the failures to add, the age of the first of them
# (microseconds), the allowed number, the milliseconds of the window and of the ban, and the last pardon known to the
# caller (-1: unknown, the time of the first failure counts). Reply for each: the failures, the milliseconds until they
# expire, 1 if the added failures are pardoned, and the last pardon.
_REPORT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local standings = {}
for index = 1, #KEYS / 2 do
  local key, at = KEYS[index * 2 - 1], index * 6 - 5
  local more, age, allowed = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local pardoned = tonumber(redis.call('GET', KEYS[index * 2]) or '') or 0
  local count, began = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  local left = redis.call('PTTL', key)
  count, began = tonumber(count) or 0, tonumber(began) or 0
  if count == 0 or began <= pardoned or left <= 0 then
    count, began, left = 0, math.max(now - age, pardoned + 1), 0
  end
  local known = tonumber(ARGV[at + 5])
  local forgiven = pardoned > (known < 0 and now - age - 1 or known)
  if more > 0 and not forgiven then
    if count == 0 then left = tonumber(ARGV[at + 3]) end
    if count < allowed and count + more >= allowed then left = tonumber(ARGV[at + 4]) end
    count = count + more
    redis.call('SET', key, string.format('%.0f %.0f', count, began), 'PX', left)
  end
  standings[index] = {count, left, forgiven and 1 or 0, pardoned}
end
return standings
"""
_PARDON: Final = """
local time = redis.call('TIME')
for _, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', time[1] * 1000000 + time[2]), 'PX', ARGV[1])
end
"""


class RedisFailures:
    def __init__(self, link: RedisLink) -> None:
        self._link = link

    @property
    def available(self) -> bool:
        """Whether the last operation on Redis succeeded."""
        return self._link.available

    async def report(self, reports: Sequence[UnreportedCounts]) -> list[SharedCount]:
        """Count failures, all in one round trip. Raises StorageUnavailable."""
        standings = await self._link.run(lambda client: _report(client, self._link.prefix, reports))
        return [
            SharedCount(failures, left / 1000, bool(pardoned), last) for failures, left, pardoned, last in standings
        ]

    async def forget(self, counter: Counter) -> None:
        """Reset a count. Raises StorageUnavailable."""
        await self._link.run(lambda client: client.delete(_count_key(self._link.prefix, counter)))

    async def reset(self, owners: Sequence[str], *, lifetime: float) -> None:
        """Void the counts that began before now. Raises StorageUnavailable."""
        for owner in owners:
            await self._void(_pardon_key(self._link.prefix, owner), _milliseconds(lifetime))

    async def _void(self, key: str, milliseconds: int) -> None:
        await self._link.run(lambda client: client.eval(_PARDON, 1, key, milliseconds))


async def _report(client: Client, prefix: str, reports: Sequence[UnreportedCounts]) -> list[Any]:
    keys = [(_count_key(prefix, report.counter), _pardon_key(prefix, report.counter.owner)) for report in reports]
    arguments = [_arguments(report) for report in reports]
    if not isinstance(client, RedisCluster):
        all_keys = list(chain.from_iterable(keys))
        standings: list[Any] = await client.eval(_REPORT, len(all_keys), *all_keys, *chain.from_iterable(arguments))
        return standings
    pipeline = client.pipeline()  # in a cluster the owners are on different nodes
    for of_one, values in zip(keys, arguments, strict=True):
        pipeline.eval(_REPORT, 2, *of_one, *values)
    return [reply[0] for reply in await pipeline.execute()]


def _arguments(report: UnreportedCounts) -> tuple[int, ...]:
    allowed, window, _ = report.counter.allowance
    pardon = -1 if report.reset is None else report.reset
    age = round(report.age * 1e6)
    return report.failures, age, allowed, _milliseconds(window), _milliseconds(report.ban), pardon


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _count_key(prefix: str, counter: Counter) -> str:
    return f"{prefix}failures:{counter.key}"


def _pardon_key(prefix: str, owner: str) -> str:
    return f"{prefix}failures:{owner}:pardoned"
