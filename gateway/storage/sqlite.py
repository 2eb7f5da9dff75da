"""SQLite through aiosqlite: a file in WAL mode, or one connection to a database in memory."""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import Connection, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.errors import CannotStart, cannot_read
from gateway.storage.engine import Opened
from gateway.storage.tables import metadata

_READERS: Final = 4  # each is a thread
_WRITERS: Final = 1  # SQLite allows one; waiting here is fair and cheap, SQLite would poll
# Milliseconds to wait while another process writes, less than the limit of a write transaction. A probe waits for less
# than the limit of a read.
_BUSY_TIMEOUT: Final = 600
_PROBE_TIMEOUT: Final = 100
_SET_BUSY_TIMEOUT: Final = f"PRAGMA busy_timeout={_BUSY_TIMEOUT}"
_PROBE: Final = f"PRAGMA busy_timeout={_PROBE_TIMEOUT}; BEGIN IMMEDIATE; ROLLBACK; {_SET_BUSY_TIMEOUT}"
# WAL: readers and the writer do not block each other. NORMAL: a power failure can lose the last commits but corrupts
# nothing, and a commit needs no fsync.
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")


def open_sqlite(url: str) -> Opened:
    """Return the engine for `sqlite:///PATH`, `sqlite://` or `sqlite:///:memory:`."""
    parsed = _parsed(url)
    in_memory = parsed.database in (None, "", ":memory:")
    if not in_memory:
        _create_private(Path(str(parsed.database)))
    # With isolation_level None the driver begins no transactions. Reads are single statements, and writes begin theirs
    # explicitly.
    options: dict[str, Any] = {"connect_args": {"isolation_level": None, "timeout": _BUSY_TIMEOUT / 1000}}
    pool_size = _READERS + _WRITERS + 1
    options |= {"poolclass": StaticPool} if in_memory else {"pool_size": pool_size, "max_overflow": 0}
    engine = create_engine(parsed.set(drivername="sqlite+aiosqlite"), hide_parameters=True, **options)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "invalidate", _roll_back)
    opened = Opened(engine, lambda: engine, (sqlite3.Error,), readers=1, is_local=True, in_memory=True, begin=_begin)
    return opened if in_memory else opened._replace(readers=_READERS, writers=_WRITERS, in_memory=False, check=_check)


def _begin(connection: Connection) -> None:
    """Begin a write transaction. A deferred transaction fails at once when it starts to write while another one
    writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check(connection: Connection) -> str | None:
    """Name a table that is gone, or the reason why the file takes no changes: another process holds the lock for
    writers, or the file cannot be written."""
    names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    if missing := sorted(metadata.tables.keys() - names):
        return f"no table {missing[0]}"
    adapted: Any = connection.connection.dbapi_connection
    try:
        refusal: str | None = adapted.run_async(_refusal_of_writes)
    except asyncio.CancelledError as error:
        connection.invalidate(error)  # its busy timeout is uncertain
        raise
    return refusal


async def _refusal_of_writes(driver: aiosqlite.Connection) -> str | None:
    """Begin a write transaction and roll it back. One call does it, because each call switches to a thread and back."""
    try:
        async with driver.executescript(_PROBE):
            return None
    except sqlite3.Error as error:
        await driver.execute_fetchall(_SET_BUSY_TIMEOUT)
        if isinstance(error, sqlite3.OperationalError):
            return str(error)
        raise


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise CannotStart("storage.database: sqlite:///PATH is expected") from None


def _create_private(path: Path) -> None:
    """Create the file with access for its owner only, because it holds password hashes.

    An existing file is not opened: closing its descriptor would release the locks of this process on it (fcntl(2)).
    """
    file = path.resolve() if path.is_symlink() else path.absolute()
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(file, os.R_OK | os.W_OK) or not file.is_file():
            raise CannotStart(_not_opened(f"{file}: {_unusable(file)}", file)) from None
    except FileNotFoundError:
        raise CannotStart(
            f"storage.database: the folder of {file} does not exist (mkdir -p {file.parent}, or another path)"
        ) from None
    except OSError as error:
        raise CannotStart(_not_opened(cannot_read(path, error), file)) from None


def _unusable(file: Path) -> str:
    return "this user cannot read and write it" if file.is_file() else "not a regular file"


def _not_opened(reason: str, file: Path) -> str:
    remedy = f"storage.database: the user of the gateway must be able to write {file} and its folder"
    return f"the database file cannot be opened: {reason} ({remedy})"


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _roll_back(connection: Any, _record: object, _error: BaseException | None) -> None:
    """Roll back before a connection is discarded during a transaction. SQLite keeps a closed connection, and with it
    the lock, until every statement is finalized."""
    connection.rollback()
