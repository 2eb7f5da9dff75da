"""SQLite through aiosqlite: one file in WAL mode, or one connection to a database in memory."""

import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.errors import CannotStart, cannot_read
from gateway.storage.engines import Opened

_READERS: Final = 4  # each is a thread
_WRITERS: Final = 1  # SQLite has one at a time; waiting here is fair and free, waiting in SQLite is polling
_BUSY_TIMEOUT: Final = 0.6  # seconds to wait while another process writes; below the limit of a write transaction
# WAL: readers and the writer do not wait for each other. NORMAL: a power cut may lose the last commits but damages
# nothing, and a commit costs no fsync.
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")


def open_sqlite(url: str) -> Opened:
    """The engine for `sqlite:///PATH`, `sqlite://` or `sqlite:///:memory:`."""
    parsed = _parsed(url)
    in_memory = parsed.database in (None, "", ":memory:")
    if not in_memory:
        _create_private(Path(str(parsed.database)))
    # isolation_level None: the driver begins no transactions by itself. Reads are single statements; writes begin
    # theirs in words.
    options: dict[str, Any] = {"connect_args": {"isolation_level": None, "timeout": _BUSY_TIMEOUT}}
    pool_size = _READERS + _WRITERS + 1
    options |= {"poolclass": StaticPool} if in_memory else {"pool_size": pool_size, "max_overflow": 0}
    engine = create_engine(parsed.set(drivername="sqlite+aiosqlite"), hide_parameters=True, **options)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "invalidate", _roll_back)
    opened = Opened(engine, lambda: engine, (sqlite3.Error,), readers=1, is_local=True, in_memory=True, begin=_begin)
    return opened if in_memory else opened._replace(readers=_READERS, writers=_WRITERS, in_memory=False)


def _begin(connection: Connection) -> None:
    """A deferred transaction that turns from reading to writing fails at once where another one writes."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise CannotStart("storage.database: sqlite:///PATH is expected") from None


def _create_private(path: Path) -> None:
    """The file holds password hashes: where it is made, it is made for its owner only."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileNotFoundError:
        folder = path.absolute().parent
        raise CannotStart(
            f"storage.database: the folder of {path.absolute()} does not exist (mkdir -p {folder}, or another path)"
        ) from None
    except OSError as error:
        raise CannotStart(f"the database file cannot be opened: {cannot_read(path, error)}") from None


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _roll_back(connection: Any, _record: object, _error: BaseException | None) -> None:
    """Before a connection is thrown away in the midst of a transaction: SQLite keeps a closed connection, and with it
    the lock, for as long as a statement is still in somebody's hands."""
    connection.rollback()
