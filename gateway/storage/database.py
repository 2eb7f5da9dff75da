"""The one border to the database: time limits, the breaker, and the errors of SQLAlchemy, drivers and sockets.

Work is a plain function that takes a SQLAlchemy connection; it runs in a greenlet, where the asynchronous drivers
look synchronous. That is what SQLAlchemy's AsyncEngine does for each single call. Its package imports the whole ORM,
8 MiB and a tenth of a second that nothing here needs, so the border uses the core's own `greenlet_spawn` instead, once
for a whole transaction.

    read(work)    statements that change nothing, 250 ms
    write(work)   one transaction, 800 ms, commit included

The time runs from the moment there is a place to work at; what a busy database makes one wait for that is limited
apart. Whatever goes wrong is StorageUnavailable. Work that fails because its connection turns out to be dead (the
server was restarted) is done again once on a fresh one, unless its commit may have arrived.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.util.concurrency import greenlet_spawn

from gateway.errors import Refusal, StorageUnavailable, without_traceback
from gateway.storage.breaker import Breaker
from gateway.storage.engines import Opened, open_engine
from gateway.storage.turnstile import Turnstile

T = TypeVar("T")
Work = Callable[[Connection], T]


class Limits(NamedTuple):
    """How long one call may take, and wait for its turn before, in seconds."""

    read: float = 0.25
    read_turn: float = 0.5
    write: float = 0.8
    write_turn: float = 2.0


SERVING: Final = Limits()
# A person at a terminal would rather wait for a far database than read that it is unavailable.
COMMAND: Final = Limits(read=10.0, read_turn=10.0, write=20.0, write_turn=20.0)
_GOODBYE: Final = 2.0  # seconds
_AWAY: Final = "it has not answered lately; it is asked again within a second"


class Database:
    """One database, opened lazily. Bound to the event loop that first uses it."""

    def __init__(self, opened: Opened, *, limits: Limits = SERVING) -> None:
        self._engine: Engine = opened.engine
        self._reading: Engine = opened.reading
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, TimeoutError, *opened.driver_errors)
        self._limits = limits
        self._volatile = opened.in_memory
        self._reads = Turnstile(opened.readers)
        self._writes = self._reads if opened.writers is None else Turnstile(opened.writers)
        self._breaker = Breaker()
        self._stale_before = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch_age()

    @classmethod
    def open(cls, url: str, *, limits: Limits = SERVING) -> "Database":
        """The database at `sqlite:///PATH`, `sqlite://` (in memory) or `postgresql://…`.

        Nothing is connected yet. Raises CannotStart where the address is of another kind, or the folder of an SQLite
        file cannot be written.
        """
        return cls(open_engine(url), limits=limits)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def available(self) -> bool:
        """Whether the database answered when it was last asked."""
        return self._breaker.closed

    async def ping(self) -> bool:
        """Ask the database for a sign of life, whatever the breaker says, within the limit of a read."""
        try:
            await self._limited(self._reading_task(_select_one), self._limits.read)
        except StorageUnavailable:
            return False
        return True

    async def read(self, work: Work[T], *, limit: float | None = None) -> T:
        """Run statements that change nothing. Raises StorageUnavailable within the limit."""
        await self._admit(self._reads, self._limits.read_turn)
        return await self._limited(self._reading_task(work, self._reads), max(limit or 0.0, self._limits.read))

    async def write(self, work: Work[T], *, limit: float | None = None) -> T:
        """Run one transaction: all of it happens or nothing. Raises StorageUnavailable within the limit, also where
        it is not known whether the commit arrived; what the work itself raises rolls back and passes through."""
        await self._admit(self._writes, self._limits.write_turn)
        writing = greenlet_spawn(_again_if_dead, lambda: self._write_once(work))
        return await self._limited(self._start(writing, self._writes), limit or self._limits.write)

    async def close(self) -> None:
        """Abandon what runs and close every connection; waits at most a few seconds for a server that hangs."""
        for task in self._tasks:
            if not task.cancelling():  # what is being cleaned up already must not be torn out of that
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE)
        await asyncio.wait((asyncio.ensure_future(greenlet_spawn(self._engine.dispose)),), timeout=_GOODBYE)

    # ---- limits, and the border for errors

    async def _admit(self, turnstile: Turnstile, patience: float) -> None:
        if not self._breaker.admits():
            raise StorageUnavailable("database", _AWAY)
        await turnstile.enter(patience)

    def _reading_task(self, work: Work[T], turnstile: Turnstile | None = None) -> "asyncio.Task[T]":
        return self._start(greenlet_spawn(_again_if_dead, lambda: self._read_once(work)), turnstile)

    def _start(self, running: Coroutine[Any, Any, T], turnstile: Turnstile | None) -> "asyncio.Task[T]":
        """The work as a task, which leaves the turnstile at its end."""
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if turnstile is not None:
            task.add_done_callback(lambda _: turnstile.leave())
        return task

    async def _limited(self, task: "asyncio.Task[T]", limit: float) -> T:
        started = self._breaker.now()
        try:
            await asyncio.wait((task,), timeout=limit)
            if task.done():
                return self._outcome(task, started)
            self._abandon(task)
            self._failed(started)
            raise StorageUnavailable("database", f"no answer within {limit * 1000:.0f} ms")
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        finally:
            del task  # it keeps its exception, whose traceback keeps this frame

    def _outcome(self, task: "asyncio.Task[T]", started: float) -> T:
        try:
            result = task.result()
        except self._errors as error:
            self._failed(started)
            release(error)
            raise StorageUnavailable("database", _described(error)) from None
        except Refusal:
            self._breaker.succeeded()
            raise
        else:
            self._breaker.succeeded()
            return result
        finally:
            del task  # as above

    def _failed(self, started: float) -> None:
        if self._breaker.failed(started):
            # Connections of a server that went away without a word look alive: none from before is used again.
            self._stale_before = self._breaker.now()
            self._reads.turn_away(_AWAY)
            self._writes.turn_away(_AWAY)

    def _abandon(self, task: "asyncio.Task[Any]") -> None:
        """Let go of work without waiting for it: closing the connection of a server that hangs takes its time too.
        The one connection of a database in memory must not be closed at all."""
        if not self._volatile:
            task.cancel()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = _error_of(task)  # of abandoned work, nobody else asks
        if error is not None and isinstance(error, (*self._errors, asyncio.CancelledError)):
            release(error)

    # ---- inside the greenlet

    def _read_once(self, work: Work[T]) -> T:
        with self._reading.connect() as connection:
            return work(connection)

    def _write_once(self, work: Work[T]) -> T:
        with self._engine.connect() as connection:
            if self.dialect == "sqlite":
                # A deferred transaction that turns from reading to writing fails at once where another writes.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            result = work(connection)
            try:
                connection.commit()
            except DBAPIError as error:
                release(error)
                raise StorageUnavailable("database", f"commit not confirmed: {_described(error)}") from None
            return result

    def _watch_age(self) -> None:
        """Refuse pooled connections that are older than the last time the database went away."""

        @event.listens_for(self._engine, "connect")
        def note_birth(_dbapi_connection: object, record: Any) -> None:
            record.info["born"] = self._breaker.now()

        @event.listens_for(self._engine, "checkout")
        def refuse_stale(_dbapi_connection: object, record: Any, _proxy: object) -> None:
            if record.info["born"] < self._stale_before and not self._volatile:
                raise DisconnectionError


def _error_of(task: "asyncio.Task[Any]") -> BaseException | None:
    if not task.cancelled():
        return task.exception()
    try:
        task.result()
    except asyncio.CancelledError as error:
        return error
    return None


def release(error: BaseException) -> None:
    """Drop the tracebacks of an error of SQLAlchemy and of the driver's error in it: frames of both hold the errors,
    which would keep the request until the next search for garbage."""
    without_traceback(error)
    if isinstance(error, DBAPIError) and isinstance(error.orig, BaseException):
        without_traceback(error.orig)


def _again_if_dead(run: Callable[[], T]) -> T:
    try:
        return run()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return run()


def _select_one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def _described(error: BaseException) -> str:
    """For the log: what the driver says, without the statement and its parameters."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(original).splitlines()
    return f"{type(original).__name__}: {lines[0]}" if lines else type(original).__name__
