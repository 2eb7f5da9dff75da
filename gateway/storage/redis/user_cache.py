"""The cache of user records that replicas share through Redis."""

import asyncio
from typing import Final

from gateway.errors import StorageUnavailable
from gateway.identity.user import UserRecord
from gateway.storage.redis.encoding import Shared
from gateway.storage.redis.user_records import RedisRecords, Write

_AT_A_TIME: Final = 128

_Question = tuple[str, asyncio.Future[Shared | None]]


class RedisCache:
    """Implements the shared cache. While Redis is down, `get` returns None and `put` stores nothing.

    Calls of `get` during a round trip wait for the next one and share it. Writes are batched in the same way, in the
    background. A burst of calls, as after an outage, therefore costs a fraction of single calls.
    """

    def __init__(self, records: RedisRecords) -> None:
        self._records = records
        self._questions: list[_Question] = []
        self._writes: dict[str, Write] = {}
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        """Return the record and the seconds for which it can still be used; None if it is missing or Redis is down."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Shared | None] = loop.create_future()
        self._questions.append((user_id, answer))
        if self._reader is None:
            self._reader = loop.create_task(self._read())
        found = await answer
        # Compare the age, because another replica can have another lifetime configured.
        if found is None or found.age >= self._records.ttl:
            return None
        return found.record, self._records.ttl - found.age

    async def put(self, record: UserRecord, *, age: float) -> None:
        """Store a record that was read from the database `age` seconds ago, unless a newer version is stored. Writes in
        the background and drops the record if the write fails."""
        self._writes[record.id] = Write(record.id, record, self._records.clock() - age)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _read(self) -> None:
        batch: list[_Question] = []
        try:
            while self._questions:
                batch, self._questions = self._questions[:_AT_A_TIME], self._questions[_AT_A_TIME:]
                _answer(batch, await self._load([user_id for user_id, _ in batch]))
        finally:
            # Release all waiters, however the task ended.
            _answer([*batch, *self._questions], [])
            self._questions, self._reader = [], None

    async def _load(self, user_ids: list[str]) -> list[Shared | None]:
        try:
            return await self._records.load(user_ids)
        except StorageUnavailable:
            return []

    async def _write(self) -> None:
        try:
            while self._writes:
                batch = [self._writes.pop(user_id) for user_id in list(self._writes)[:_AT_A_TIME]]
                await self._records.store(batch)
        except StorageUnavailable:
            self._writes.clear()
        finally:
            self._writer = None


def _answer(questions: list[_Question], found: list[Shared | None]) -> None:
    for index, (_, answer) in enumerate(questions):
        if not answer.done():
            answer.set_result(found[index] if index < len(found) else None)
