"""Fixtures of PostgreSQL servers."""

from collections.abc import Iterator

import pytest

from bench.stores.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server shared by all tests, which must not stop it."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database for this test."""
    name = postgres_server.create_database()
    try:
        yield postgres_server.url(name)
    finally:
        postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def fragile_postgres_server() -> Iterator[PostgresServer]:
    """A second server, for tests that stop it."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_postgres(fragile_postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server for one test, which can stop, kill or suspend it."""
    try:
        yield fragile_postgres_server
    finally:
        fragile_postgres_server.revive()
