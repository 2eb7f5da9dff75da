"""Storage tests run on both databases."""

import pytest

from gateway.identity.user import UserRecord
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users
from tests.support.databases import (
    Clock,
    clock,
    create,
    database,
    empty_url,
    prepared_url,
    serving_database,
    shared_postgres_url,
    sqlite_template,
)

__all__ = [
    "clock",
    "database",
    "empty_url",
    "prepared_url",
    "serving_database",
    "shared_postgres_url",
    "sqlite_template",
]


@pytest.fixture
def users(database: Database, clock: Clock) -> Users:
    return Users(database, clock=clock)


@pytest.fixture
def sessions(database: Database, clock: Clock) -> Sessions:
    return Sessions(database, clock=clock)


@pytest.fixture
async def ann(users: Users) -> UserRecord:
    return await create(users)
