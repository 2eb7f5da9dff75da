"""Access to the database: time limits, the circuit breaker, and the errors of SQLAlchemy, drivers and sockets.

Work is a plain function that takes a SQLAlchemy connection. It runs in a greenlet, in which the asynchronous drivers
look synchronous. SQLAlchemy's AsyncEngine does the same for each call, but its package imports the whole ORM: 8 MiB and
a tenth of a second. This module uses the `greenlet_spawn` of SQLAlchemy's core, once for a whole transaction.

    read(work)    statements that change nothing, 250 ms
    write(work)   one transaction, 800 ms, commit included

The limit begins when the work gets a connection, and again with each answer of a server, at most _LONGEST times as long
in total: the first use of a connection prepares each statement, which takes long with a distant server, and work that
is given up costs its connection. Waiting for a connection has a limit of its own. Every failure is
StorageUnavailable. Work is repeated if its connection turns out to be dead (the server was restarted), or if it
conflicts with another transaction (SQLSTATE 40001, 40P01), unless its commit may have arrived.

A server that answers but takes no changes, such as a primary that was fenced off, counts as down: its connections are
closed, and the circuit breaker stays open until a server takes changes. A server without the tables or rights that
sign-ins need is not `available` but keeps answering reads, which end sessions as before.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.util.concurrency import greenlet_spawn

from gateway.errors import CannotStart, Refusal, StorageUnavailable, without_traceback
from gateway.settings.postgresql_address import SCHEMES
from gateway.storage.circuit_breaker import Breaker
from gateway.storage.engine import Opened, Timeouts
from gateway.storage.fair_semaphore import FairSemaphore

log: Final = logging.getLogger("gateway.storage.database")

T = TypeVar("T")
Work = Callable[[Connection], T]


class DatabaseLimits(NamedTuple):
    """Time limits in seconds: of one call, and of the wait for its turn."""

    read: float = 0.25
    read_turn: float = 0.5
    write: float = 0.8
    write_turn: float = 2.0


SERVING: Final = DatabaseLimits()
# Commands wait longer: a user at a terminal prefers a slow answer from a distant database to an error.
COMMAND: Final = DatabaseLimits(read=10.0, read_turn=10.0, write=20.0, write_turn=20.0)
_GOODBYE: Final = 2.0  # seconds
# The server ends transactions that the client has abandoned, so that a client that disappears keeps no locks.
_MARGIN: Final = 1.2  # seconds beyond the limit of a write, for waiting for a lock
_ABANDONED: Final = 4.2  # seconds beyond the limit of a write
# The number of parts of a limit. No part elapses while the machine does not run this process, so the limit measures the
# database and not the machine.
_SLICES: Final = 20
_LONGEST: Final = 3  # limits in total, while the database answers
# Threads do the work of a local file, so each part also waits until a thread has run this many times. A transaction
# needs up to 25 such turns. Each can take 50 ms on a busy machine.
_THREAD_TURNS: Final = 3
_LONGEST_TURN: Final = 1.0  # seconds
_LOCAL_PATIENCE: Final = 5.0  # seconds without a success after which callers of a local file stop waiting
_REPEATS: Final = 2
_CONFLICTS: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
_NO_WORK: Final = frozenset({"25006", "53300"})  # read-only, too many connections
_OPERATOR: Final = "57P0"  # shut down, starting up, ended by an operator
AWAY: Final = "no answer lately; the next attempt follows within a second"


class _Progress:
    """Counts the answers of the database to work that began at `began`. A new connection is an answer too."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.answers = 0

    def follow(self, connection: Connection) -> None:
        """Count the answers on this connection."""
        connection.info["progress"] = self
        if connection.info["born"] >= self._began:
            self.answers += 1


class Database:
    """One database, opened lazily. Bound to the event loop that first uses it."""

    def __init__(self, opened: Opened, *, limits: DatabaseLimits = SERVING, breaker: Breaker | None = None) -> None:
        self._opened = opened
        self._engine: Engine = opened.engine
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, TimeoutError, *opened.driver_errors)
        self._limits = limits
        self._volatile = opened.in_memory
        self._is_local = opened.is_local
        self._reads = FairSemaphore(opened.readers, waits_for_progress=opened.is_local)
        self._writes = self._reads
        if opened.writers is not None:
            self._writes = FairSemaphore(opened.writers, waits_for_progress=opened.is_local)
        self._probe_thread: ThreadPoolExecutor | None = None
        self._breaker = Breaker() if breaker is None else breaker
        self._stale_before = 0.0
        self._has_answered = False
        self._lacks: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch_age()
        self._watch_progress()

    @classmethod
    def open(cls, url: str, *, limits: DatabaseLimits = SERVING, breaker: Breaker | None = None) -> "Database":
        """Return the database at `sqlite:///PATH`, `sqlite://` (in memory) or `postgresql://…`, without connecting.

        Raises CannotStart if the address is of another kind, or if the folder of an SQLite file is not writable.
        """
        timeouts = Timeouts(lock=limits.write + _MARGIN, abandoned=limits.write + _ABANDONED)
        return cls(open_engine(url, timeouts), limits=limits, breaker=breaker)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def available(self) -> bool:
        """Whether the database answered its last calls, and lacked nothing at the last ping."""
        return self._breaker.closed and self._lacks is None

    async def ping(self) -> bool:
        """Return whether the database answers, takes changes and has the tables and rights that sign-ins need, within
        the limit of a read. Ignores the circuit breaker. For a local file, waits for its turn to write."""
        semaphore = self._writes if self._is_local else None
        try:
            if semaphore is not None:
                await semaphore.enter(_LOCAL_PATIENCE)
            lacks = await self._limited(*self._reading_task(self._opened.check, semaphore), self._limits.read)
        except StorageUnavailable:
            return False
        if lacks is not None:
            self._report(lacks)
        elif self._lacks is not None:
            log.info("the database is available")
        self._lacks = lacks
        return lacks is None

    async def read(self, work: Work[T], *, limit: float | None = None) -> T:
        """Run statements that change nothing. Raises StorageUnavailable within the limit."""
        await self._admit(self._reads, self._limits.read_turn)
        return await self._limited(*self._reading_task(work, self._reads), max(limit or 0.0, self._limits.read))

    async def write(self, work: Work[T], *, limit: float | None = None) -> T:
        """Run one transaction, which takes effect completely or not at all.

        Raises StorageUnavailable within the limit, also if the fate of the commit is unknown. An exception of the work
        rolls the transaction back and propagates.
        """
        await self._admit(self._writes, self._limits.write_turn)
        progress = _Progress(self._breaker.now())
        writing = greenlet_spawn(_with_repeats, lambda: self._write_once(work, progress))
        return await self._limited(self._start(writing, self._writes), progress, limit or self._limits.write)

    async def close(self) -> None:
        """Abandon running work and close every connection. Waits at most a few seconds for a server that hangs."""
        for task in self._tasks:
            if not task.cancelling():  # a second cancellation would interrupt the cleanup
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE)
        self._opened.stop()
        if self._probe_thread is not None:
            self._probe_thread.shutdown(wait=False)
        await asyncio.wait((asyncio.ensure_future(greenlet_spawn(self._engine.dispose)),), timeout=_GOODBYE)

    # ---- limits and errors

    async def _admit(self, semaphore: FairSemaphore, patience: float) -> None:
        if not self._breaker.admits():
            raise StorageUnavailable("database", AWAY)
        try:
            await semaphore.enter(max(patience, _LOCAL_PATIENCE) if self._is_local else patience)
        except StorageUnavailable as error:
            if error.reason != AWAY:
                self._report(error.reason)
            raise

    def _reading_task(
        self, work: Work[T], semaphore: FairSemaphore | None = None
    ) -> "tuple[asyncio.Task[T], _Progress]":
        progress = _Progress(self._breaker.now())
        return self._start(greenlet_spawn(_with_repeats, lambda: self._read_once(work, progress)), semaphore), progress

    def _start(self, running: Coroutine[Any, Any, T], semaphore: FairSemaphore | None) -> "asyncio.Task[T]":
        """Start the work as a task that leaves the semaphore when it ends."""
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if semaphore is not None:
            task.add_done_callback(lambda task: semaphore.leave(succeeded=_has_answered(task)))
        return task

    async def _limited(self, task: "asyncio.Task[T]", progress: _Progress, limit: float) -> T:
        started = self._breaker.now()
        silent = answers = 0
        try:
            for _ in range(_SLICES * _LONGEST):
                await asyncio.wait((task,), timeout=limit / _SLICES)
                if self._is_local:
                    await self._let_threads_run(task)
                if task.done():
                    return self._outcome(task, started)
                silent = silent + 1 if self._is_local or progress.answers == answers else 0
                answers = progress.answers
                if silent == _SLICES:
                    break
            self._abandon(task)
            raise self._failed(started, f"no answer within {limit * 1000:.0f} ms")
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        finally:
            del task  # the task holds its exception, whose traceback holds this frame

    async def _let_threads_run(self, task: "asyncio.Task[Any]") -> None:
        """Wait until a thread of this process has run _THREAD_TURNS times, or the task is done."""
        if self._probe_thread is None:
            self._probe_thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-database-limit")
        loop = asyncio.get_running_loop()
        for _ in range(_THREAD_TURNS):
            if task.done():
                return
            turn = loop.run_in_executor(self._probe_thread, _no_work)
            await asyncio.wait((task, turn), timeout=_LONGEST_TURN, return_when=asyncio.FIRST_COMPLETED)

    def _outcome(self, task: "asyncio.Task[T]", started: float) -> T:
        try:
            result = task.result()
        except StorageUnavailable as error:
            self._failed(started, error.reason)
            raise
        except self._errors as error:
            reason, is_down = _described(error), _does_not_work(error)
            release(error)
            # No local name for the new error: its traceback holds this frame.
            raise self._failed(started, reason, is_down=is_down) from None
        except Refusal:
            self._breaker.succeeded(started)
            raise
        else:
            if not self._breaker.closed:
                log.info("the database is available")
            self._breaker.succeeded(started)
            self._has_answered = True
            return result
        finally:
            del task  # as above

    def _failed(self, started: float, reason: str, *, is_down: bool = False) -> StorageUnavailable:
        """Count a failure and return the error to raise. `is_down`: the server itself reports that it cannot work."""
        opens = self._breaker.down() if is_down else self._breaker.failed(started)
        if opens:
            # Connections to a server that disappeared look open. Do not reuse any that was opened before now.
            self._stale_before = self._breaker.now()
            self._reads.turn_away(AWAY)
            self._writes.turn_away(AWAY)
        self._report(reason)
        return StorageUnavailable("database", reason)

    def _report(self, reason: str) -> None:
        """Log each cause. A full disk does not open the circuit breaker but is an outage too."""
        if self._has_answered:  # otherwise the caller reports that it cannot start
            log.warning("the database is unavailable (%s)", reason)

    def _abandon(self, task: "asyncio.Task[Any]") -> None:
        """Cancel work without waiting for it, because closing a connection to a server that hangs takes time.

        The only connection to a database in memory is never closed.
        """
        if not self._volatile:
            task.cancel()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = _error_of(task)  # retrieve the error of abandoned work, or asyncio logs it
        if error is not None and isinstance(error, (*self._errors, asyncio.CancelledError)):
            release(error)

    # ---- inside the greenlet

    def _read_once(self, work: Work[T], progress: _Progress) -> T:
        with self._opened.reading().connect() as connection:
            progress.follow(connection)
            return work(connection)

    def _write_once(self, work: Work[T], progress: _Progress) -> T:
        with self._engine.connect() as connection:
            progress.follow(connection)
            self._opened.begin(connection)
            result = work(connection)
            try:
                connection.commit()
            except DBAPIError as error:
                if _state(error) in _CONFLICTS:
                    raise  # the server has rolled the transaction back
                release(error)
                raise StorageUnavailable("database", f"commit not confirmed: {_described(error)}") from None
            return result

    def _watch_age(self) -> None:
        """Refuse pooled connections that are older than the last outage of the database."""

        @event.listens_for(self._engine, "connect")
        def note_birth(_dbapi_connection: object, record: Any) -> None:
            record.info["born"] = self._breaker.now()

        @event.listens_for(self._engine, "checkout")
        def refuse_stale(_dbapi_connection: object, record: Any, _proxy: object) -> None:
            if record.info["born"] < self._stale_before and not self._volatile:
                raise DisconnectionError

    def _watch_progress(self) -> None:
        @event.listens_for(self._engine, "after_cursor_execute")
        def note_answer(connection: Connection, *_: object) -> None:
            progress: _Progress | None = connection.info.get("progress")
            if progress is not None:
                progress.answers += 1


def _has_answered(task: "asyncio.Task[Any]") -> bool:
    """Return whether the database did the work. A Refusal raised by the work is an answer."""
    error = _error_of(task)
    return error is None or isinstance(error, Refusal)


def _no_work() -> None:
    pass


def _error_of(task: "asyncio.Task[Any]") -> BaseException | None:
    if not task.cancelled():
        return task.exception()
    try:
        task.result()
    except asyncio.CancelledError as error:
        return error
    return None


def release(error: BaseException) -> None:
    """Drop the tracebacks of an SQLAlchemy error and of the driver's error in it. Their frames hold the errors, so the
    cycle would keep the request in memory until the next garbage collection."""
    without_traceback(error)
    if isinstance(error, DBAPIError) and isinstance(error.orig, BaseException):
        without_traceback(error.orig)


def _with_repeats(run: Callable[[], T]) -> T:
    for _ in range(_REPEATS):
        try:
            return run()
        except DBAPIError as error:
            if not error.connection_invalidated and _state(error) not in _CONFLICTS:
                raise
            release(error)
    return run()


def _state(error: BaseException) -> str:
    """Return the SQLSTATE of an error, empty where it has none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or ""


def _does_not_work(error: BaseException) -> bool:
    return _state(error) in _NO_WORK or _state(error).startswith(_OPERATOR)


def _described(error: BaseException) -> str:
    """Describe an error for the log: the driver's message without the statement and its parameters."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(original).splitlines()
    return f"{type(original).__name__}: {lines[0]}" if lines else type(original).__name__


def open_engine(url: str, timeouts: Timeouts) -> Opened:
    """Return the engine for a URL. Raises CannotStart if it names neither SQLite nor PostgreSQL.

    The module of a database is imported only when it is used, because a driver costs memory.
    """
    scheme = url.partition("://")[0]
    if scheme in ("sqlite", "sqlite+aiosqlite"):
        from gateway.storage.sqlite import open_sqlite

        return open_sqlite(url)
    if scheme in SCHEMES:
        from gateway.storage.postgresql import open_postgresql

        return open_postgresql(url, timeouts)
    raise CannotStart("storage.database: the address must begin with sqlite:// or postgresql://")
