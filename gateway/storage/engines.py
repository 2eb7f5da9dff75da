"""From an address to a SQLAlchemy engine. What is particular about a database lives in a file of its own, imported
only where that database is used: a driver costs memory."""

from typing import NamedTuple

from sqlalchemy import Engine

from gateway.errors import CannotStart


class Opened(NamedTuple):
    """An engine, the same engine for statements that need no transaction, and what its driver itself may raise.

    `readers` and `writers` are how many may work at the same time; without `writers`, both share the places. The pool
    has one connection more, for signs of life. `in_memory`: all there is hangs on one connection.
    """

    engine: Engine
    reading: Engine
    driver_errors: tuple[type[Exception], ...]
    readers: int
    writers: int | None = None
    in_memory: bool = False


def open_engine(url: str) -> Opened:
    """The engine for an address; CannotStart for one that is neither SQLite nor PostgreSQL."""
    kind, _, rest = url.partition(":")
    if kind == "sqlite":
        from gateway.storage.sqlite import open_sqlite

        return open_sqlite(url)
    if kind in ("postgresql", "postgres"):
        from gateway.storage.postgresql import open_postgresql

        return open_postgresql(f"postgresql:{rest}")
    raise CannotStart("storage.database: the address must begin with sqlite:// or postgresql://")
