"""Databases for tests that run on both kinds, and accounts for them."""

import secrets
import shutil
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
from gateway.storage.circuit_breaker import Breaker
from gateway.storage.database import COMMAND, SERVING, Database, DatabaseLimits
from gateway.storage.users import Users
from tests.support.processes import command, write_configuration

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with tables that tests empty instead of creating their own, which takes half a second."""
    url = postgres_server.url(postgres_server.create_database())
    _make_tables(url, tmp_path_factory.mktemp("postgres"))
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with empty tables. Tests copy it instead of creating their own, which takes 40 ms of CPU time."""
    folder = tmp_path_factory.mktemp("sqlite")
    _make_tables(f"sqlite:///{folder}/gateway.db", folder)
    return folder / "gateway.db"


def _make_tables(url: str, folder: Path) -> None:
    key = {"kid": "k1", "algorithm": "HS256", "secret": "0123456789abcdef" * 2}
    config = write_configuration(folder, {"storage": {"database": url}, "tokens": {"keys": [key]}})
    done = command(config, "db", "upgrade")
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=KINDS)
def prepared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind with tables, which `opened` can empty."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "gateway.db")
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("shared_postgres_url")
    return url


@asynccontextmanager
async def opened(url: str, limits: DatabaseLimits, *, breaker: Breaker | None = None) -> AsyncIterator[Database]:
    """The database of `prepared_url`, empty."""
    database = Database.open(url, limits=limits, breaker=breaker)
    try:
        if database.dialect == "postgresql":
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
    """Delete all rows. TRUNCATE, which creates new files for each table and index, takes six times as long."""
    for table in ("users", "audit", "blocked_subjects", "links", "outbox"):
        connection.execute(text(f"DELETE FROM {table}"))
    connection.execute(text("SELECT setval('audit_id_seq', 1, false)"))


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
