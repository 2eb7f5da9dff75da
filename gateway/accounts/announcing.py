"""A change and its announcement belong together: once begun, both run to their end, whoever has left meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.identity.records import ChangeFeed, UserRecord

T = TypeVar("T")


class Announcer:
    """Makes changes and tells all replicas. `feed` is told only after the commit: whoever hears of a change and looks
    must find it."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed
        self._running: set[asyncio.Task[Any]] = set()

    async def changed(self, change: Coroutine[Any, Any, UserRecord | None]) -> UserRecord | None:
        """Make a change that gives the user's record afterwards, and announce it; None: nothing was changed."""
        return await self.finish(self._announced(change))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end. A caller who goes away between a commit and its announcement must not leave the old
        record in the caches of all replicas."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        finally:
            del task  # it keeps its exception, whose traceback keeps this frame

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Tell that a user has changed; None: there is no such user any more."""
        await self._feed.announce(user_id, record)

    async def _announced(self, change: Coroutine[Any, Any, UserRecord | None]) -> UserRecord | None:
        record = await change
        if record is not None:
            await self.announce(record.id, record)
        return record

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its caller, who would be told, may have left
