"""Look-ups of presented secrets by their digests, and the notes of their uses.

Unknown secrets need a database query, and clients can invent well-formed ones. Concurrent look-ups are therefore
batched, one batch at a time: a flood occupies only one database connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Generic, TypeVar

from gateway.errors import StorageUnavailable, without_traceback

V = TypeVar("V")

_AT_A_TIME: Final = 128
MAX_ASKED: Final = 4096  # Concurrent lookups; beyond this number the store counts as unavailable.
MAX_NOTED: Final = 10_000  # Secrets whose use is not yet written.
NOTE_AFTER: Final = 1.0  # In seconds.

log: Final = logging.getLogger("gateway.identity")


class SecretLookups(Generic[V]):
    """Batches look-ups. `load` reads the facts by digest, `kind` names the secrets in messages."""

    def __init__(self, load: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, V]]], *, kind: str) -> None:
        self._load = load
        self._too_many = f"too many {kind} are being looked up"
        self._asked: dict[bytes, asyncio.Future[V | StorageUnavailable | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    def find(self, digest: bytes) -> Awaitable[V | None]:
        """The facts about a secret, None for an unknown one. Raises StorageUnavailable."""
        outcome = self._asked.get(digest)
        if outcome is None:
            if len(self._asked) >= MAX_ASKED:
                log.warning("the database is unavailable (%s)", self._too_many)
                raise StorageUnavailable("database", self._too_many)
            loop = asyncio.get_running_loop()
            outcome = self._asked[digest] = loop.create_future()
            if self._reader is None:
                self._reader = loop.create_task(self._read())
        return _answered(outcome)

    async def close(self) -> None:
        """Cancel the look-ups in progress."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while self._asked:
                batch = dict(islice(self._asked.items(), _AT_A_TIME))
                for digest in batch:
                    del self._asked[digest]
                await self._answer(batch)
        finally:
            self._reader = None
            _give_up(self._asked)
            self._asked = {}

    async def _answer(self, batch: "dict[bytes, asyncio.Future[V | StorageUnavailable | None]]") -> None:
        try:
            found = await self._load(tuple(batch))
            for digest, outcome in batch.items():
                outcome.set_result(found.get(digest))
        except StorageUnavailable as error:
            for outcome in batch.values():
                outcome.set_result(without_traceback(error))
        finally:
            _give_up(batch)  # no waiter is left behind, however this ended


class UseNotes:
    """Writes the times of last use in the background, `after` seconds later and together."""

    def __init__(
        self,
        write: Callable[[Mapping[str, datetime]], Awaitable[None]],
        *,
        clock: Callable[[], float],
        after: float = NOTE_AFTER,
    ) -> None:
        self._write = write
        self._clock = clock
        self._after = after
        self._used: dict[str, datetime] = {}
        self._writer: asyncio.Task[None] | None = None

    def add(self, key: str) -> None:
        """Note a use now."""
        if len(self._used) < MAX_NOTED:
            self._used[key] = datetime.fromtimestamp(self._clock(), UTC)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    def get(self, key: str) -> datetime | None:
        """The time of a use that is not yet written."""
        return self._used.get(key)

    async def close(self) -> None:
        """Write pending uses if the store answers quickly."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._flush()

    async def _write_soon(self) -> None:
        try:
            while self._used:
                await asyncio.sleep(self._after)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        uses, self._used = self._used, {}
        if uses:
            with suppress(StorageUnavailable):  # the next use is written
                await self._write(uses)


async def _answered(outcome: "asyncio.Future[V | StorageUnavailable | None]") -> V | None:
    # Shielded: a cancelled waiter must not cancel the lookup of the others.
    found = await asyncio.shield(outcome)
    if isinstance(found, StorageUnavailable):
        raise StorageUnavailable(found.store, found.reason)
    return found


def _give_up(batch: "dict[bytes, asyncio.Future[V | StorageUnavailable | None]]") -> None:
    for outcome in batch.values():
        if not outcome.done():
            outcome.set_result(StorageUnavailable("database", "the lookup was cancelled"))
