"""From an address to a SQLAlchemy engine. The details of each database live in a module of their own, imported only
where that database is used: a driver costs memory."""

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from gateway.errors import CannotStart
from gateway.settings.postgresql_address import SCHEMES


class Timeouts(NamedTuple):
    """Limits that the server itself enforces, in seconds: waiting for a lock, and a transaction without a statement."""

    lock: float
    idle_in_transaction: float


def _nothing(_connection: Connection) -> None:
    pass


class Opened(NamedTuple):
    """An engine, and the differences between the databases.

    `reading` returns the engine for statements that need no transaction, `driver_errors` are those of the driver.
    `readers` and `writers` are the places for work at the same time; without `writers`, both share the places. The pool
    has one connection more, for `check`, which raises where the database takes no changes. `begin` opens a transaction
    that writes. `stop` ends the connections that are not in the pool. `is_local`: threads of this process do the work.
    `in_memory`: closing the one connection loses all data.
    """

    engine: Engine
    reading: Callable[[], Engine]
    driver_errors: tuple[type[Exception], ...]
    readers: int
    writers: int | None = None
    is_local: bool = False
    in_memory: bool = False
    begin: Callable[[Connection], None] = _nothing
    check: Callable[[Connection], None] = _nothing
    stop: Callable[[], None] = lambda: None


def open_engine(url: str, timeouts: Timeouts) -> Opened:
    """The engine for an address; CannotStart for one that is neither SQLite nor PostgreSQL."""
    scheme = url.partition("://")[0]
    if scheme in ("sqlite", "sqlite+aiosqlite"):
        from gateway.storage.sqlite import open_sqlite

        return open_sqlite(url)
    if scheme in SCHEMES:
        from gateway.storage.postgresql import open_postgresql

        return open_postgresql(url, timeouts)
    raise CannotStart("storage.database: the address must begin with sqlite:// or postgresql://")
