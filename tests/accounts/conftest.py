"""Accounts are tested on both databases."""

from tests.support.databases import clock, database, empty_url, shared_postgres_url

__all__ = ["clock", "database", "empty_url", "shared_postgres_url"]
