"""The database layer: error translation and time limits."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, exc, text

from bench.stores.postgres import PostgresServer
from gateway.errors import Refusal, StorageUnavailable
from gateway.storage import schema
from gateway.storage.circuit_breaker import FAILURES, Breaker
from gateway.storage.database import AWAY, COMMAND, Database
from gateway.storage.users import Users
from tests.support.databases import create
from tests.support.waiting import promised, within


def one(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT 1")).scalar_one()
    return found


def raising(error: BaseException) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        raise error

    return work


@pytest.fixture
def database(serving_database: Database) -> Database:
    """The database with the limits of a serving gateway."""
    return serving_database


# ---- errors


OURS_TO_MEET = {"builtins", "socket", "ssl", "asyncio", "sqlalchemy", "sqlite3", "asyncpg"}


def every_subclass(root: type[BaseException]) -> Iterator[type[BaseException]]:
    if root.__module__.partition(".")[0] in OURS_TO_MEET:
        yield root
    for child in root.__subclasses__():
        yield from every_subclass(child)


def instance(kind: type[BaseException]) -> BaseException:
    """An instance of this class, for any constructor signature."""
    statement = ("boom", "SELECT 1", {"p": 1}, ValueError("boom"))
    signatures: list[tuple[object, ...]] = [
        statement,
        statement[1:],
        ("boom", [], []),
        ("boom", "boom"),
        ("boom",),
        (),
    ]
    for arguments in signatures:
        try:
            return kind(*arguments)
        except (TypeError, AttributeError):
            continue
    raise AssertionError(kind)


FOREIGN = [exc.SQLAlchemyError, OSError, TimeoutError]
DRIVERS: dict[str, list[type[BaseException]]] = {
    "sqlite": [sqlite3.Error],
    "postgresql": [asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError],
}


class ClosedBreaker(Breaker):
    """Never opens, so that one database can test every error."""

    def failed(self, started: float) -> bool:
        return False

    def down(self) -> bool:
        return False


@pytest.fixture
async def unlimited(serving_database: Database, prepared_url: str) -> AsyncIterator[Database]:
    database = Database.open(prepared_url, breaker=ClosedBreaker())
    try:
        yield database
    finally:
        await database.close()


async def test_every_error_of_sqlalchemy_the_driver_and_the_system_is_storage_unavailable(unlimited: Database) -> None:
    kinds = {kind for root in [*FOREIGN, *DRIVERS[unlimited.dialect]] for kind in every_subclass(root)}
    assert len(kinds) > 60
    for kind in kinds:
        for call in (unlimited.read, unlimited.write):
            with pytest.raises(StorageUnavailable) as raised:
                await call(raising(instance(kind)))
            assert raised.value.store == "database"
    assert await unlimited.read(one) == 1


@pytest.mark.parametrize("error", [Refusal("last_admin"), ZeroDivisionError(), KeyError("x")])
async def test_an_error_of_the_work_itself_passes_and_undoes_it(database: Database, error: Exception) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO gateway_schema VALUES ('doomed')"))
        raise error

    with pytest.raises(type(error)):
        await database.write(work)
    assert await schema.is_current(database)
    assert database.available


async def test_neither_statements_nor_values_are_in_the_reason(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("SELECT * FROM nowhere WHERE secret = :secret"), {"secret": "correct horse"})

    with pytest.raises(StorageUnavailable) as raised:
        await database.read(work)
    assert "nowhere" in str(raised.value)
    assert "correct horse" not in str(raised.value) and "SELECT" not in str(raised.value)
    assert "\n" not in str(raised.value)


# ---- time


def busy_timeout(connection: Connection) -> int:
    found: int = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    return found


def sleeping(seconds: float) -> Callable[[Connection], None]:
    """Work that takes the database this many seconds."""

    def work(connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            driver: Any = connection.connection.dbapi_connection
            driver.create_function("pg_sleep", 1, time.sleep)
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    return work


async def test_a_read_is_given_up_on_after_250_ms(database: Database) -> None:
    await database.read(one)  # a new connection extends the limit
    with within(1.4), pytest.raises(StorageUnavailable, match="no answer within 250 ms"):
        await database.read(sleeping(1.5))
    assert database.available, "one slow statement is no outage"
    assert await database.read(one) == 1


async def test_a_write_is_given_up_on_after_800_ms_and_undone(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO gateway_schema VALUES ('doomed')"))
        sleeping(4)(connection)

    await database.read(one)
    with within(3.0), pytest.raises(StorageUnavailable, match="no answer within 800 ms"):
        await database.write(work)
    await asyncio.sleep(3.5)
    await create(Users(database))
    assert await schema.is_current(database)


async def test_waiting_for_ones_turn_is_limited_too(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Waiting for a busy database can take longer than for a hanging one, but is bounded."""
    if database.dialect == "sqlite":
        pytest.skip("a local file that answers serves every caller")
    await database.read(sleeping(0.0))
    slow = [asyncio.create_task(database.read(sleeping(0.1))) for _ in range(100)]
    with within(2.0):  # all of them would take 2.5 s
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
    reasons = {str(outcome) for outcome in outcomes if outcome is not None}
    assert reasons == {"database: too many operations are waiting"}
    assert len([outcome for outcome in outcomes if outcome is None]) >= 3 * 4, "those whose turn came were served"
    assert database.available
    assert "the database is unavailable (too many operations are waiting)" in caplog.text


async def test_a_local_file_that_answers_slowly_serves_a_whole_burst(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
    try:
        working = [database.read(sleeping(0.1)) for _ in range(40)] + [database.write(sleeping(0.1)) for _ in range(10)]
        outcomes = await asyncio.gather(*working, return_exceptions=True)
        assert outcomes == [None] * 50
    finally:
        await database.close()


async def test_commands_are_more_patient(empty_url: str) -> None:
    database = Database.open(empty_url, limits=COMMAND)
    try:
        await database.read(sleeping(0.4))
    finally:
        await database.close()


async def test_a_disconnected_client_cancels_the_work(database: Database) -> None:
    done: list[str] = []

    def work(connection: Connection) -> None:
        sleeping(0.2)(connection)
        connection.execute(text("INSERT INTO gateway_schema VALUES ('doomed')"))
        done.append("inserted")

    task = asyncio.create_task(database.write(work))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.6)
    assert await schema.is_current(database)
    await create(Users(database))


async def test_a_database_in_memory_survives_cancelled_calls() -> None:
    database = Database.open("sqlite://")
    try:
        await schema.upgrade(database)
        for seconds in (0.0, 0.05):
            task = asyncio.create_task(database.write(sleeping(0.2)))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(StorageUnavailable):
            await database.read(sleeping(1.0))
        await asyncio.sleep(1.5)
        assert await schema.is_current(database)
    finally:
        await database.close()


async def test_a_burst_that_takes_longer_than_one_of_it_may_is_served_whole(database: Database) -> None:
    reads = [database.read(sleeping(0.05)) for _ in range(24)]
    assert await asyncio.gather(*reads) == [None] * 24
    writes = [database.write(sleeping(0.1)) for _ in range(10)]
    assert await asyncio.gather(*writes) == [None] * 10


async def test_a_refusal_is_a_sign_of_life(database: Database) -> None:
    for _ in range(FAILURES):
        with pytest.raises(StorageUnavailable):
            await database.read(raising(OSError("away")))
    assert not database.available
    await asyncio.sleep(1.0)
    with pytest.raises(Refusal):
        await database.write(raising(Refusal("email_taken")))
    assert database.available


async def test_another_process_that_writes_to_the_same_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    database = Database.open(f"sqlite:///{path}")
    try:
        await schema.upgrade(database)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(create(Users(database)))
            await asyncio.sleep(0.3)
            assert await Users(database).by_email("ann@example.com") is None, "readers do not wait for writers"
            other.execute("COMMIT")
            assert (await writing).email == "ann@example.com"
            other.execute("BEGIN IMMEDIATE")
            with within(1.0), pytest.raises(StorageUnavailable):
                await create(Users(database), "bob@example.com")
    finally:
        await database.close()


async def test_a_file_that_takes_no_changes_is_degraded_while_reads_go_on(tmp_path: Path) -> None:
    """Another process holds the lock for writers, or a table is gone. Reads are not refused for that."""
    path = tmp_path / "gateway.db"
    database = Database.open(f"sqlite:///{path}")
    users = Users(database)
    try:
        await schema.upgrade(database)
        assert await database.ping() is True
        patience = await database.read(busy_timeout)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            for begin in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
                other.execute(begin)
                for _ in range(FAILURES + 1):
                    assert await database.ping() is False
                assert not database.available
                assert await database.read(busy_timeout) == patience, "a probe waits less than a user's call"
                assert await users.by_email("ann@example.com") is None
                other.execute("COMMIT")
                assert await database.ping() is True
                assert database.available
            other.execute("ALTER TABLE outbox RENAME TO lost")
            assert await database.ping() is False
            assert await users.by_email("ann@example.com") is None
            other.execute("ALTER TABLE lost RENAME TO outbox")
            assert await database.ping() is True
        await create(users)
    finally:
        await database.close()


async def test_a_probe_waits_for_the_turn_of_this_process_to_write(tmp_path: Path) -> None:
    """Many writers at once are no outage."""
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
    try:
        await schema.upgrade(database)
        writing = [asyncio.create_task(database.write(sleeping(0.02))) for _ in range(20)]
        await asyncio.sleep(0)
        assert await database.ping() is True
        assert await database.ping() is True
        await asyncio.gather(*writing)
    finally:
        await database.close()


# ---- outages of PostgreSQL


@pytest.fixture
async def own_database(own_postgres: PostgresServer) -> AsyncIterator[Database]:
    database = Database.open(own_postgres.url(own_postgres.create_database()))
    try:
        await schema.upgrade(database)
        yield database
    finally:
        await database.close()


async def outcome(database: Database) -> str:
    try:
        return str(await database.read(one))
    except StorageUnavailable as error:
        return error.reason


async def recovers(database: Database, timeout: float = 5.0) -> float:
    """Query every 50 ms until it succeeds; returns the seconds this took."""
    began = time.monotonic()
    while await outcome(database) != "1":
        assert time.monotonic() - began < timeout, "it did not recover"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_after_a_restart_of_the_server_the_first_request_already_works(
    own_postgres: PostgresServer, own_database: Database
) -> None:
    await asyncio.gather(*(own_database.read(one) for _ in range(8)))
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(own_postgres.start)
    assert await own_database.read(one) == 1
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(own_postgres.start)
    await create(Users(own_database))


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_missing_server_is_reported_at_once_and_found_again_within_5_s(
    own_postgres: PostgresServer, own_database: Database, how: str
) -> None:
    await asyncio.to_thread(getattr(own_postgres, how))
    for _ in range(FAILURES):
        with within(promised(0.3)):
            assert await outcome(own_database) != "1"
    assert not own_database.available
    with within(promised(0.01)):
        assert "no answer lately" in await outcome(own_database)
    assert not await own_database.ping()
    await asyncio.to_thread(own_postgres.start)
    assert await recovers(own_database) < 5.0
    assert own_database.available and await own_database.ping()
    await create(Users(own_database))


async def test_a_server_that_hangs_is_given_up_on_and_found_again_within_5_s(
    own_postgres: PostgresServer, own_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(*(own_database.read(one) for _ in range(8)))
    own_postgres.pause()
    try:
        with within(promised(0.4)):
            outcomes = await asyncio.gather(*(outcome(own_database) for _ in range(30)))
        assert sorted(set(outcomes)) == [AWAY, "no answer within 250 ms"]
        assert not own_database.available
        began, waited = time.monotonic(), 0.0
        while time.monotonic() - began < 3.0:
            asked = time.monotonic()
            assert await outcome(own_database) != "1"
            waited += (took := time.monotonic() - asked)
            assert took < promised(0.4)
            await asyncio.sleep(0.01)
        assert waited < 1.2, "only one caller a second waits"
        with within(promised(0.4)):
            assert not await own_database.ping()
        with within(promised(1.0)), pytest.raises(StorageUnavailable):
            await create(Users(own_database))
    finally:
        own_postgres.resume()
    assert await recovers(own_database) < 5.0
    outcomes = await asyncio.gather(*(outcome(own_database) for _ in range(30)))
    assert set(outcomes) == {"1"}
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_connections_that_died_without_a_word_are_all_replaced_at_once(
    own_postgres: PostgresServer, own_database: Database
) -> None:
    """A dead machine or a firewall that drops state: each connection of the pool alone would cost a timeout."""
    await asyncio.gather(*(own_database.read(one) for _ in range(8)))
    dead = {int(pid) for pid in await asyncio.to_thread(connections_of, own_postgres)}
    own_postgres.pause()
    for _ in range(FAILURES):
        await outcome(own_database)
    await asyncio.to_thread(own_postgres.resume)
    assert await recovers(own_database) < 5.0
    alive = await own_database.read(lambda connection: connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    assert alive not in dead


def connections_of(server: PostgresServer) -> list[str]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gateway'"
    return server.sql(query).split()


async def test_a_commit_that_may_have_arrived_is_not_repeated(
    own_postgres: PostgresServer, own_database: Database
) -> None:
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        connection.execute(text("SELECT 1"))
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        own_postgres.sql(f"SELECT pg_terminate_backend({pid}, 5000)")

    with pytest.raises(StorageUnavailable, match="commit not confirmed"):
        await own_database.write(work, limit=10)
    assert runs == [1]


async def test_work_that_meets_a_dead_connection_is_done_again_once(
    own_postgres: PostgresServer, own_database: Database
) -> None:
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(1)
        if len(runs) == 1:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            own_postgres.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
        return one(connection)

    assert await own_database.write(work, limit=10) == 1
    assert runs == [1, 1]


async def test_the_server_can_list_its_connections(own_postgres: PostgresServer, own_database: Database) -> None:
    assert len(await asyncio.to_thread(connections_of, own_postgres)) >= 1


async def test_closing_ends_every_connection_even_in_the_midst_of_work(database: Database) -> None:
    running = [asyncio.create_task(database.read(sleeping(0.2))) for _ in range(3)]
    await asyncio.sleep(0.02)
    with within(2.5):
        await database.close()
    outcomes: list[Any] = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(outcome, BaseException) for outcome in outcomes)
