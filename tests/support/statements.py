"""Compiles each SQL statement once per process and kind of database, not once per engine.

Hundreds of tests open an engine of their own, and SQLAlchemy then compiles every statement again.
"""

from typing import Any, ClassVar

from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.engine.default import DefaultDialect


class _Sharing(DefaultDialect):
    """The compiled statements of all engines of a dialect are equal, because their dialects count as equal."""

    supports_statement_cache = True
    compiled: ClassVar[dict[Any, Any]]

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=cls.compiled)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class SharingSqlite(_Sharing, SQLiteDialect_aiosqlite):
    compiled: ClassVar[dict[Any, Any]] = {}
    supports_statement_cache = True


class SharingPostgresql(_Sharing, PGDialect_asyncpg):
    compiled: ClassVar[dict[Any, Any]] = {}
    supports_statement_cache = True


registry.register("sqlite.aiosqlite", __name__, "SharingSqlite")
registry.register("postgresql.asyncpg", __name__, "SharingPostgresql")
