"""Replicas in one process: each with its own Redis link, feed, cache and directory, over one store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.identity.directory import Directory
from gateway.identity.principal import Principal
from gateway.identity.user import UserRecord
from gateway.storage.redis.change_feed import RedisFeed
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.encoding import RedisValues
from gateway.storage.redis.user_cache import RedisCache
from gateway.storage.redis.user_records import RedisRecords
from tests.identity.stores import MemoryStore, directory_of
from tests.storage import authentic


class Replica:
    """The identity components of one gateway process."""

    def __init__(self, store: MemoryStore, url: str, *, ttl: float = 60.0, values: RedisValues | None = None) -> None:
        self.store = store
        self.link = RedisLink(url, authentic.INSTALLATION)
        self.records = RedisRecords(self.link, values or authentic.values(), ttl=ttl)
        self.cache = RedisCache(self.records)
        self.feed = RedisFeed(self.link, self.records)
        self.directory: Directory = directory_of(store, ttl=ttl, shared=self.cache, feed=self.feed)

    async def user(self, user_id: str = "u1") -> Principal | None:
        return await self.directory.principal(user_id)

    async def found(self, user_id: str = "u1") -> Principal:
        principal = await self.directory.principal(user_id)
        assert principal is not None
        return principal

    async def change(self, user_id: str = "u1", **changes: object) -> UserRecord:
        """Change a user like the account service: in the store, then published to all replicas."""
        changed = self.store.change(user_id, **changes)
        await self.feed.announce(user_id, changed)
        return changed

    @property
    def whole(self) -> bool:
        return self.link.available and self.feed.connected


@asynccontextmanager
async def replicas(
    store: MemoryStore, url: str, *, count: int = 2, ttl: float = 60.0, values: RedisValues | None = None
) -> AsyncIterator[list[Replica]]:
    """Replicas that are open while the block runs."""
    started = [Replica(store, url, ttl=ttl, values=values) for _ in range(count)]
    for replica in started:
        await replica.link.open()
        await replica.feed.open(replica.directory)
    try:
        yield started
    finally:
        for replica in started:
            await replica.feed.close()
            await replica.directory.close()
            await replica.link.close()
