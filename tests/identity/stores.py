"""A user store in memory, with outages on demand and without the delays of a database."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gateway.errors import StorageUnavailable
from gateway.identity.directory import Directory
from gateway.identity.principal import PrincipalFactory
from gateway.identity.user import UserRecord
from gateway.settings.model import CacheSettings, IdentitySettings

CREATED = datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=UTC)


def record(user_id: str = "u1", **changes: Any) -> UserRecord:
    values: dict[str, Any] = {
        "email": f"{user_id}@example.com",
        "is_active": True,
        "roles": frozenset(["user"]),
        "created_at": CREATED,
        "version": 1,
    }
    return UserRecord(id=user_id, **(values | changes))


class MemoryStore:
    """Users by id. A query reads the state at its start, and returns when `answering` is set."""

    def __init__(self, *users: UserRecord) -> None:
        self.users = {user.id: user for user in users}
        self.asked: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()
        self.failure: Exception | None = None

    async def user(self, user_id: str) -> UserRecord | None:
        self.asked.append(user_id)
        if self.failure is not None:
            failure = self.failure
            await self.answering.wait()
            raise failure
        seen = self.users.get(user_id)
        await self.answering.wait()
        return seen

    def change(self, user_id: str, **changes: Any) -> UserRecord:
        """Change a user like the database does, with a new version."""
        user = self.users[user_id]
        self.users[user_id] = replace(user, version=user.version + 1, **changes)
        return self.users[user_id]

    def fail(self, store: str = "database") -> None:
        self.failure = StorageUnavailable(store, "out of order")


class Clock:
    """A clock in seconds that moves only on demand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def directory_of(store: MemoryStore, *, ttl: float = 60.0, entries: int = 100_000, **options: Any) -> Directory:
    """A directory over this store, without role implications."""
    return Directory(
        store,
        factory=PrincipalFactory(IdentitySettings(), lambda roles: roles),
        cache_settings=CacheSettings(user_ttl=ttl, max_local_entries=entries),
        **options,
    )


async def settle() -> None:
    """Run all ready tasks."""
    for _ in range(10):
        await asyncio.sleep(0)
