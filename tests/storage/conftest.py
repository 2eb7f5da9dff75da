"""Storage is tested on both databases."""

from tests.support.databases import clock, database, empty_url, prepared_url, serving_database, shared_postgres_url

__all__ = ["clock", "database", "empty_url", "prepared_url", "serving_database", "shared_postgres_url"]
