"""Commit a change and publish it, even if the client disconnects in between."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from gateway.identity.user import ChangeFeed, UserRecord
from gateway.settings.model import Settings

T = TypeVar("T")


class ChangePublisher:
    """Makes changes and publishes them to all replicas, after the commit: a replica that reloads the record must see
    the change."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed
        self._running: set[asyncio.Task[Any]] = set()

    async def changed(self, change: Coroutine[Any, Any, UserRecord | None]) -> UserRecord | None:
        """Make a change and publish the resulting record; None means that nothing was changed."""
        return await self.finish(self._announced(change))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end, even if the caller is cancelled.

        A cancellation between commit and publication would leave the old record in the caches of all replicas.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        finally:
            del task  # The task holds its exception, and the traceback holds this frame.

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Publish that a user has changed; None means deleted."""
        await self._feed.announce(user_id, record)

    async def _announced(self, change: Coroutine[Any, Any, UserRecord | None]) -> UserRecord | None:
        record = await change
        if record is not None:
            await self.announce(record.id, record)
        return record

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, because the awaiting caller can be gone


# How long a revocation must stay visible so that no cached copy outlives it.
#
# The largest supported clock difference between replicas. A token of an ended session stays revoked this long after its
# expiry, so that a replica whose clock is behind does not accept it.
CLOCK_SKEW: Final = 60.0  # In seconds.


def key_known_until(settings: Settings, clock: Callable[[], float]) -> datetime:
    """The time until which a cached copy of an API key deleted now can exist. `clock` returns seconds since the
    epoch."""
    return datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=copies_last_for(settings))


def copies_last_for(settings: Settings) -> float:
    """The seconds for which a replica can hold a copy of an API key or a browser session."""
    return settings.cache.user_ttl + CLOCK_SKEW
