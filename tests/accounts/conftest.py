"""Account tests run on both databases."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.storage.database import Database
from tests.accounts.application import application
from tests.accounts.harness import Harness, make_harness
from tests.support.databases import (
    Clock,
    clock,
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
def harness(database: Database, clock: Clock) -> Iterator[Harness]:
    made = make_harness(database, clock)
    yield made
    made.close()


@pytest.fixture
async def client(database: Database, prepared_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application over the database of the fixture `database`."""
    async with application(tmp_path, prepared_url) as made:
        yield made
