"""Endpoints are tested on both databases."""

from tests.accounts.conftest import client, harness
from tests.support.databases import (
    clock,
    database,
    empty_url,
    prepared_url,
    serving_database,
    shared_postgres_url,
    sqlite_template,
)

__all__ = [
    "client",
    "clock",
    "database",
    "empty_url",
    "harness",
    "prepared_url",
    "serving_database",
    "shared_postgres_url",
    "sqlite_template",
]
