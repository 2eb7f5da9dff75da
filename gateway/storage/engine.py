"""An SQLAlchemy engine, and the differences between the databases."""

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, text

_SELECT_ONE: Final = text("SELECT 1")


class Timeouts(NamedTuple):
    """Limits that the server enforces, in seconds: waiting for a lock, and a transaction that the client has
    abandoned."""

    lock: float
    abandoned: float


def _nothing(_connection: Connection) -> None:
    pass


def _answer(connection: Connection) -> str | None:
    connection.execute(_SELECT_ONE)
    return None


class Opened(NamedTuple):
    """An engine, and the differences between the databases.

    `reading` returns the engine for statements that need no transaction. `driver_errors` are the exceptions of the
    driver. `readers` and `writers` limit concurrent work; without `writers`, both share the limit of `readers`. The
    pool has one connection more, for `check`. `check` raises if the database does not answer or, on a server, takes no
    changes. It returns a description of the tables or rights that sign-ins lack, and None if they lack nothing. It runs
    every second, so it takes few statements. `begin` opens a write transaction. `stop` closes the connections
    outside the pool. `is_local`: threads of this process do the work. `in_memory`: closing the only connection loses
    all data.
    """

    engine: Engine
    reading: Callable[[], Engine]
    driver_errors: tuple[type[Exception], ...]
    readers: int
    writers: int | None = None
    is_local: bool = False
    in_memory: bool = False
    begin: Callable[[Connection], None] = _nothing
    check: Callable[[Connection], str | None] = _answer
    stop: Callable[[], None] = lambda: None
