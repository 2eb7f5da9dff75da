"""The cache of user records that replicas share."""

import asyncio
from typing import Final

from gateway.errors import StorageUnavailable
from gateway.identity.records import UserRecord
from gateway.storage.redis_records import RedisRecords, Write
from gateway.storage.redis_values import Shared

_AT_A_TIME: Final = 128

_Question = tuple[str, asyncio.Future[Shared | None]]


class RedisCache:
    """The shared cache over Redis. Redis down is no error here: nothing is found and nothing is kept.

    Who asks while an answer is awaited is gathered and asks with the others in one round trip, and writing is done in
    the background in the same way. So a crowd that comes at once, as after every outage, costs a fraction of what each
    of them would cost alone.
    """

    def __init__(self, records: RedisRecords) -> None:
        self._records = records
        self._questions: list[_Question] = []
        self._writes: dict[str, Write] = {}
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        """The record and the seconds it may still be used; None: not there, or Redis is down."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Shared | None] = loop.create_future()
        self._questions.append((user_id, answer))
        if self._reader is None:
            self._reader = loop.create_task(self._read())
        found = await answer
        # The age is what counts: another replica may have been told another lifetime.
        if found is None or found.age >= self._records.ttl:
            return None
        return found.record, self._records.ttl - found.age

    async def put(self, record: UserRecord, *, age: float) -> None:
        """Keep a record that was asked of the database `age` seconds ago, unless a newer version is there. It is
        written soon, or never: nobody waits for it."""
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
            # Whatever ended it, nobody is left waiting.
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
