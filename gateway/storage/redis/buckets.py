"""Leaky buckets in Redis, shared by all replicas.

A value is `LEVEL TIME`: the level of the bucket and the time of that level, in microseconds of the server's clock, the
only clock that all replicas share. The value expires when the bucket is empty, so Redis keeps only the buckets of
callers of the last `per` seconds.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster

from gateway.errors import StorageUnavailable, without_traceback
from gateway.gate.leaky_buckets import Quota
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.url import Client

_AT_A_TIME: Final = 128

# An atomic `Quota.with_one_more`. KEYS: the buckets. ARGV for each: the level up to which a request passes, the leak
# per microsecond, and the milliseconds in which a full bucket empties. The reply is a text for each bucket, because
# Redis truncates Lua numbers to integers.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local levels = {}
for index, key in ipairs(KEYS) do
  local full, leak, life = tonumber(ARGV[index * 3 - 2]), tonumber(ARGV[index * 3 - 1]), ARGV[index * 3]
  local level, at = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
  level, at = tonumber(level) or 0, tonumber(at) or now
  if now > at then level = level - (now - at) * leak end
  if level < 0 then level = 0 end
  level = level + 1
  if level <= full then
    redis.call('SET', key, string.format('%.17g %.0f', level, now), 'PX', life)
  end
  levels[index] = string.format('%.17g', level)
end
return levels
"""


class _Question(NamedTuple):
    key: str
    quota: Quota
    answer: "asyncio.Future[float | StorageUnavailable]"


class RedisBuckets:
    """Implements SharedBuckets. Calls during a round trip wait for the next one and share it, so a burst costs a
    fraction of single calls."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._questions: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether the last operation on Redis succeeded."""
        return self._link.available

    async def take(self, key: str, quota: Quota) -> float:
        """Count a request and return the new level of the bucket. Raises StorageUnavailable."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float | StorageUnavailable] = loop.create_future()
        self._questions.append(_Question(key, quota, answer))
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        level = await answer
        if isinstance(level, StorageUnavailable):
            raise StorageUnavailable(level.store, level.reason)
        return level

    async def _ask(self) -> None:
        batch: list[_Question] = []
        try:
            while self._questions:
                batch, self._questions = self._questions[:_AT_A_TIME], self._questions[_AT_A_TIME:]
                await self._ask_for(batch)
        finally:
            # Release all waiters, however the task ended.
            _answer([*batch, *self._questions], StorageUnavailable("redis", "not asked"))
            self._questions, self._asking = [], None

    async def _ask_for(self, batch: list[_Question]) -> None:
        try:
            levels = await self._link.run(lambda client: _take(client, self._link.prefix, batch))
        except StorageUnavailable as error:
            _answer(batch, without_traceback(error))
            return
        for question, level in zip(batch, levels, strict=True):
            _answer([question], float(level))


def _answer(questions: Sequence[_Question], what: float | StorageUnavailable) -> None:
    for question in questions:
        if not question.answer.done():
            question.answer.set_result(what)


async def _take(client: Client, prefix: str, batch: Sequence[_Question]) -> list[Any]:
    keys = [prefix + question.key for question in batch]
    arguments: list[Sequence[str | int]] = [_arguments(question.quota) for question in batch]
    if not isinstance(client, RedisCluster):
        levels: list[Any] = await client.eval(_TAKE, len(keys), *keys, *chain.from_iterable(arguments))
        return levels
    pipeline = client.pipeline()  # in a cluster the keys are on different nodes
    for key, of_key in zip(keys, arguments, strict=True):
        pipeline.eval(_TAKE, 1, key, *of_key)
    return [reply[0] for reply in await pipeline.execute()]


def _arguments(quota: Quota) -> tuple[str, str, int]:
    return repr(quota.full), repr(quota.rate / 1e6), max(1, round(quota.per * 1000) + 1)
