"""Databases for tests that run on both kinds, and accounts for them."""

import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from bench.stores.postgres import PostgresServer
from gateway.accounts.store import NewSession, NewUser
from gateway.identity.refresh_token import RefreshToken
from gateway.identity.user import Actor, ClientInfo, UserRecord
from gateway.storage import schema
from gateway.storage.circuit_breaker import Breaker
from gateway.storage.database import COMMAND, SERVING, Database, DatabaseLimits
from gateway.storage.users import Users

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer) -> str:
    """A database that tests empty instead of creating their own, which takes half a second."""
    return postgres_server.url(postgres_server.create_database())


@pytest.fixture(params=KINDS)
def prepared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind that `opened` can empty and migrate."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("shared_postgres_url")
    return url


@asynccontextmanager
async def opened(url: str, limits: DatabaseLimits, *, breaker: Breaker | None = None) -> AsyncIterator[Database]:
    """A database with all tables, empty."""
    database = Database.open(url, limits=limits, breaker=breaker)
    try:
        if not await schema.upgrade(database):
            await database.write(_empty, limit=30)
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(prepared_url: str) -> AsyncIterator[Database]:
    """An empty database with generous time limits, for tests that do not measure time."""
    async with opened(prepared_url, COMMAND) as made:
        yield made


@pytest.fixture
async def serving_database(prepared_url: str) -> AsyncIterator[Database]:
    """An empty database with the limits of a serving gateway."""
    async with opened(prepared_url, SERVING) as made:
        yield made


def _empty(connection: Connection) -> None:
    connection.execute(text("TRUNCATE users, audit, blocked_subjects, links, outbox RESTART IDENTITY CASCADE"))


class Clock:
    """A clock that moves only on demand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    @property
    def instant(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new_user(email: str = "ann@example.com", *roles: str, password_hash: str = "hash") -> NewUser:
    """An account that is not stored yet."""
    return NewUser(str(uuid.uuid4()), email, email.casefold(), password_hash, frozenset(roles or ("user",)))


def new_session(clock: Clock, *, ttl: float = 1000.0, access: float = 100.0) -> NewSession:
    """A session that is not stored yet: its tokens expire `ttl` and `access` seconds from now."""
    return NewSession(
        secrets.token_urlsafe(16),
        RefreshToken.new(),
        clock.instant + timedelta(seconds=ttl),
        clock.instant + timedelta(seconds=access),
        ClientInfo("192.0.2.7", "test", "request-1"),
    )


async def create(users: Users, email: str = "ann@example.com", *roles: str) -> UserRecord:
    """Store an account with the password hash `hash`."""
    user = new_user(email, *roles)
    return await users.create(user, by=Actor(user.id))
