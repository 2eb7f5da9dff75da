"""Accounts are tested on both databases."""

from collections.abc import Iterator

import pytest

from gateway.storage.database import Database
from tests.accounts.rig import Rig, make_rig
from tests.support.databases import (
    Clock,
    clock,
    database,
    empty_url,
    prepared_url,
    serving_database,
    shared_postgres_url,
)

__all__ = ["clock", "database", "empty_url", "prepared_url", "serving_database", "shared_postgres_url"]


@pytest.fixture
def rig(database: Database, clock: Clock) -> Iterator[Rig]:
    made = make_rig(database, clock)
    yield made
    made.close()
