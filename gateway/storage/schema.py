"""Checks and migrates the tables of the database.

The schema version is the row that Alembic keeps, in a table named by the gateway, because an application in the same
database can use Alembic too. The version is read with plain SQL: Alembic takes 11 MiB and a fifth of a second, so it is
imported only to migrate. An empty database gets the newest tables directly. A test checks that the migrations make the
same tables.
"""

import asyncio
import secrets
import shlex
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, insert, inspect, select, text

from gateway.errors import CannotStart, StorageUnavailable
from gateway.storage.database import AWAY, Database
from gateway.storage.tables import VERSION_TABLE, installation, metadata

T = TypeVar("T")

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006")  # oldest first
HEAD: Final = REVISIONS[-1]

_OLD_VERSION_TABLE: Final = "alembic_version"  # up to revision 0004
_OLD_TABLES: Final = ("users", "sessions", "refresh_tokens", "audit")  # in every revision up to 0004

_LIMIT: Final = 120.0  # seconds, for a migration of a large database
_PATIENCE: Final = 10.0  # seconds: for the first connection, and for another process that migrates
# The number of the advisory lock for migrations that start at the same time. Any number works that nothing else uses.
_MIGRATING: Final = 0x67617465_6D696772


async def revision(database: Database, *, patience: float = _PATIENCE) -> str | None:
    """Return the schema version, None for a database without one. Raises StorageUnavailable, for a locked file after
    `patience` seconds."""
    return await _once_unlocked(lambda: database.read(_revision, limit=patience), patience)


async def is_current(database: Database) -> bool:
    """Return whether the schema is exactly the one that this version of the gateway needs."""
    return await revision(database) == HEAD


async def upgrade(database: Database) -> bool:
    """Migrate the schema to the newest version. Concurrent processes migrate it once. Return whether it changed.

    Raises StorageUnavailable, and CannotStart if a newer gateway created the database.
    """
    return await _once_unlocked(lambda: database.write(_upgrade, limit=_LIMIT), _PATIENCE)


def _unusable(database: Database, error: StorageUnavailable) -> CannotStart:
    remedy = "" if database.dialect == "sqlite" else "; check the address, and that the server runs"
    return CannotStart(f"storage.database cannot be used: {error.reason}{remedy}")


async def prepare(database: Database, *, file: str = "", patience: float = _PATIENCE, creates: bool = True) -> None:
    """Prepare the schema: migrate an SQLite file, and require a current PostgreSQL database.

    Without `creates`, a file without tables of the gateway stays as it is: it is empty, or belongs to another
    application. Raises CannotStart with the remedy for the configuration `file`, also if the database cannot be
    reached.
    """
    try:
        found = await revision(database, patience=patience)
        if found != HEAD and database.dialect == "sqlite" and (creates or found is not None):
            await upgrade(database)
            return
    except StorageUnavailable as error:
        raise _unusable(database, error) from error
    if found != HEAD:
        _refuse_newer(found)
        what = "has no tables yet" if found is None else f"has an outdated schema ({found}, needed: {HEAD})"
        raise CannotStart(f"storage.database {what}; run: {command_to_run(file)}")


def command_to_run(file: str) -> str:
    """The command that upgrades the database of a configuration file; an empty name is that of the default file."""
    return shlex.join(["gateway", "db", "upgrade", *(["--config", file] if file else [])])


async def _once_unlocked(ask: Callable[[], Awaitable[T]], patience: float) -> T:
    """Retry while another process holds the exclusive lock on the file. Connecting needs this too, because the first
    worker turns a new SQLite file to WAL."""
    deadline = time.monotonic() + patience
    locked: StorageUnavailable | None = None
    while True:
        try:
            return await ask()
        except StorageUnavailable as error:
            if "locked" in error.reason:
                locked = error
            elif locked is None or error.reason != AWAY:  # AWAY: the circuit breaker has opened because of the lock
                raise
            if time.monotonic() > deadline:
                raise locked from None
        await asyncio.sleep(0.1)


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise CannotStart(f"storage.database was made by a newer version of the gateway (schema {found}); upgrade it")


def _revision(connection: Connection) -> str | None:
    tables = inspect(connection)
    if tables.has_table(VERSION_TABLE):
        if "version_num" not in (column["name"] for column in tables.get_columns(VERSION_TABLE)):
            raise _foreign(VERSION_TABLE)
        return _version_in(connection, VERSION_TABLE)
    # An application that uses Alembic can have a table of the same name.
    if tables.has_table(_OLD_VERSION_TABLE) and all(map(tables.has_table, _OLD_TABLES)):
        found = _version_in(connection, _OLD_VERSION_TABLE)
        return found if found in REVISIONS else None
    return None


def _version_in(connection: Connection, table: str) -> str | None:
    # `table` is one of the two constants above.
    found: str | None = connection.execute(text(f"SELECT version_num FROM {table}")).scalar_one_or_none()  # noqa: S608
    return found


def _upgrade(connection: Connection) -> bool:
    """Migrate in one transaction. Both databases roll back changes of tables too."""
    if connection.dialect.name == "postgresql":
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))  # the migration of a large table takes long
        limit = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'"
        connection.execute(text(limit))  # unknown before PostgreSQL 17
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
    found = _revision(connection)
    if found == HEAD:
        return False
    _refuse_newer(found)
    if found is None:
        _refuse_foreign(connection)
        _create(connection)
        return True
    if not inspect(connection).has_table(VERSION_TABLE):
        _write_version(connection, found)
        connection.execute(text(f"DROP TABLE {_OLD_VERSION_TABLE}"))
    from gateway.storage.migrations import migrate  # imports Alembic

    migrate(connection, HEAD)
    return True


def _refuse_foreign(connection: Connection) -> None:
    existing = sorted(set(metadata.tables).intersection(inspect(connection).get_table_names()))
    if existing:
        raise _foreign(existing[0])


def _foreign(table: str) -> CannotStart:
    return CannotStart(
        f"storage.database has a table '{table}' that the gateway did not make; give the gateway a database "
        "of its own, or on PostgreSQL a schema: ?search_path=gateway"
    )


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(insert(installation), {"id": secrets.token_hex(8)})
    _write_version(connection, HEAD)


def _write_version(connection: Connection, version: str) -> None:
    key = f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY"
    connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL {key})"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:version)"), {"version": version})  # noqa: S608


# The id of an installation: random, created with the database, and part of every name that the gateway uses in Redis.
_START_LIMIT: Final = 10.0  # seconds; the id is read once, at the start


async def installation_id(database: Database) -> str:
    """Return the id from a database with current tables. Raises CannotStart if it cannot be read."""
    try:
        found = await database.read(_id, limit=_START_LIMIT)
    except StorageUnavailable as error:
        raise _unusable(database, error) from error
    if found is None:
        raise CannotStart(
            "storage.database has no row in the table 'installation', whose id is part of the names in storage.redis; "
            "insert one with a random id"
        )
    return found


def _id(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(installation.c.id).limit(1)).scalar_one_or_none()
    return found
