"""PostgreSQL servers and networks that work partially, and pgbouncer in between."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from bench.stores.postgres import PostgresServer
from gateway.errors import CannotStart, StorageUnavailable
from gateway.identity.user import Actor
from gateway.storage import schema
from gateway.storage.database import COMMAND, Database
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users
from tests.support.databases import Clock, create, new_session
from tests.support.processes import free_port
from tests.support.relays import Relay, relay_to
from tests.support.waiting import eventually


def one(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT 1")).scalar_one()
    return found


async def answers(database: Database) -> bool:
    try:
        return await database.read(one) == 1
    except StorageUnavailable:
        return False


async def until_it_answers(database: Database, within: float) -> float:
    """Seconds until a read succeeds, trying every 50 ms."""
    began = time.monotonic()
    while not await answers(database):
        assert time.monotonic() - began < within
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
async def relay(postgres_server: PostgresServer) -> AsyncIterator[Relay]:
    async with relay_to(postgres_server.port) as made:
        yield made


@pytest.fixture
def name(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.create_database()
    yield made
    postgres_server.drop_database(made)


@pytest.fixture
async def direct(postgres_server: PostgresServer, name: str) -> AsyncIterator[Database]:
    """The database without a relay, migrated."""
    database = Database.open(postgres_server.url(name), limits=COMMAND)
    try:
        await schema.upgrade(database)
        yield database
    finally:
        await database.close()


@pytest.fixture
async def relayed(relay: Relay, direct: Database, name: str) -> AsyncIterator[Database]:
    """The same database through the relay, with the limits of a serving gateway."""
    database = Database.open(f"postgresql://postgres@127.0.0.1:{relay.port}/{name}")
    try:
        yield database
    finally:
        await database.close()


# ---- a slow connection setup


@pytest.mark.parametrize("delay", [0.3, 0.9, 2.0])
async def test_a_server_that_is_slow_to_connect_answers_again_after_all_connections_were_cut(
    relayed: Database, relay: Relay, delay: float
) -> None:
    while not all(await asyncio.gather(*(answers(relayed) for _ in range(8)))):
        await asyncio.sleep(0.05)
    relay.connect_delay = delay
    relay.cut()
    assert await until_it_answers(relayed, within=5.0) < 5.0
    await create(Users(relayed))


@pytest.mark.parametrize("delay", [0.05, 0.08])
async def test_a_distant_server_takes_changes_again_after_all_connections_were_cut(
    relayed: Database, relay: Relay, delay: float
) -> None:
    async def changes() -> bool:
        try:
            return bool(await create(Users(relayed)))
        except StorageUnavailable:
            return False

    await until_it_answers(relayed, within=5.0)
    relay.answer_delay = delay
    relay.cut()
    began = time.monotonic()
    while not await changes():
        assert time.monotonic() - began < 5.0
        await asyncio.sleep(0.05)


async def test_a_server_that_hangs_behind_a_slow_one_is_given_up_within_the_limit(
    relayed: Database, relay: Relay
) -> None:
    def hang_after_three(connection: Connection) -> None:
        for _ in range(3):
            connection.execute(text("SELECT pg_sleep(0.1)"))
        hung.append(time.monotonic())
        relay.silent = True
        one(connection)

    hung: list[float] = []
    await until_it_answers(relayed, within=5.0)
    with pytest.raises(StorageUnavailable):
        await relayed.read(hang_after_three)
    assert time.monotonic() - hung[0] < 0.45


async def test_a_statement_is_parsed_once_per_connection(relayed: Database, direct: Database) -> None:
    await until_it_answers(relayed, within=5.0)

    def names(connection: Connection) -> list[str]:
        one(connection)
        return list(
            connection.execute(text("SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT 1'")).scalars()
        )

    assert await relayed.read(names) == await relayed.read(names) != []


async def test_a_slow_server_is_not_flooded_with_connections(relayed: Database, relay: Relay) -> None:
    await until_it_answers(relayed, within=10.0)
    before = relay.accepted
    relay.connect_delay = 1.5
    relay.cut()
    outcomes = [await asyncio.gather(*(answers(relayed) for _ in range(30))) for _ in range(10)]
    assert any(all(each) for each in outcomes) or await until_it_answers(relayed, within=5.0) < 5.0
    assert relay.accepted - before <= 18


# ---- a network failure during a transaction


async def test_a_client_that_vanishes_in_a_transaction_does_not_keep_its_locks(
    relayed: Database, relay: Relay, direct: Database
) -> None:
    ann = await create(Users(direct))

    def lock_and_vanish(connection: Connection) -> None:
        connection.execute(text("SELECT 1 FROM users WHERE id = :id FOR UPDATE"), {"id": ann.id})
        relay.silent = True
        connection.execute(text("SELECT pg_sleep(0)"))

    with pytest.raises(StorageUnavailable):
        await relayed.write(lock_and_vanish)
    began = time.monotonic()
    update = text("UPDATE users SET version = version + 1 WHERE id = :id")
    await direct.write(lambda connection: connection.execute(update, {"id": ann.id}) and None, limit=15.0)
    assert time.monotonic() - began < 15.0


async def test_clients_that_vanish_before_they_run_a_prepared_statement_do_not_keep_their_locks(
    postgres_server: PostgresServer, name: str, direct: Database
) -> None:
    """Both statements at once, because each takes seconds."""

    async def vanish_before(statement: bytes, email: str) -> None:
        ann = await create(Users(direct), email)
        actor = Actor(ann.id)
        async with relay_to(postgres_server.port) as relay:
            relayed = Database.open(f"postgresql://postgres@127.0.0.1:{relay.port}/{name}")
            try:
                await until_it_answers(relayed, within=5.0)
                relay.last_words = statement
                with pytest.raises(StorageUnavailable):
                    await Users(relayed).change(ann.id, by=actor, is_active=False, admin_roles=())
                began = time.monotonic()
                await Users(direct).change(ann.id, by=actor, is_active=False, admin_roles=())
                assert time.monotonic() - began < 15.0
            finally:
                await relayed.close()

    await asyncio.gather(
        vanish_before(b"FOR UPDATE", "ann@example.com"), vanish_before(b"UPDATE users", "bob@example.com")
    )


async def test_sessions_end_idle_transactions_and_notice_dead_peers(direct: Database, relayed: Database) -> None:
    def settings(connection: Connection) -> dict[str, str]:
        timeouts = ["idle_in_transaction_session_timeout", "transaction_timeout", "lock_timeout"]
        names = [*timeouts, "tcp_user_timeout", "tcp_keepalives_idle"]
        return {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in names}

    await asyncio.gather(*(relayed.read(one) for _ in range(3)))
    every = await asyncio.gather(*(relayed.read(settings) for _ in range(8)))
    assert every == [
        {
            "idle_in_transaction_session_timeout": "5s",
            "transaction_timeout": "5s",
            "lock_timeout": "2s",
            "tcp_user_timeout": "10000",
            "tcp_keepalives_idle": "5",
        }
    ] * len(every)


# ---- a server that answers but accepts no changes


def read_only(server: PostgresServer, name: str, value: str) -> None:
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")


async def test_a_primary_that_turns_read_only_is_down_and_reported_once(
    postgres_server: PostgresServer, name: str, direct: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connections stay open, as after a failover that fences off the old primary."""
    database = Database.open(postgres_server.url(name))
    caplog.set_level(logging.INFO, "gateway.storage.database")
    try:
        await asyncio.gather(*(database.read(one) for _ in range(4)))
        fence = text("SELECT set_config('default_transaction_read_only', 'on', false)")
        await asyncio.gather(*(database.read(lambda c: c.execute(fence).scalar_one()) for _ in range(4)))
        read_only(postgres_server, name, "on")
        with pytest.raises(StorageUnavailable, match="read-only"):
            await create(Users(database))
        assert not database.available
        assert not await database.ping(), "it answers, and takes no changes"
        assert not await answers(database)
        read_only(postgres_server, name, "off")
        assert await until_it_answers(database, within=5.0) < 5.0
        await create(Users(database))
        assert database.available
        messages = [record.getMessage() for record in caplog.records]
        assert any("read-only" in message for message in messages)
        assert messages[-1] == "the database is available"
    finally:
        read_only(postgres_server, name, "off")
        await database.close()


async def test_a_sign_of_life_alone_finds_a_read_only_server(
    postgres_server: PostgresServer, name: str, direct: Database
) -> None:
    database = Database.open(postgres_server.url(name))
    try:
        assert await database.ping()
        fence = text("SELECT set_config('default_transaction_read_only', 'on', false)")
        await database.read(lambda connection: connection.execute(fence).scalar_one())
        assert not await database.ping()
        assert not database.available
    finally:
        await database.close()


RIGHTS = "SELECT, INSERT, UPDATE, DELETE"


@pytest.fixture
async def restricted(postgres_server: PostgresServer, name: str, direct: Database) -> AsyncIterator[Database]:
    """The database of a user that owns no table."""
    role = f"restricted_{name}"
    postgres_server.sql(f"CREATE ROLE {role} LOGIN")
    postgres_server.sql(f"GRANT {RIGHTS} ON ALL TABLES IN SCHEMA public TO {role}", database=name)
    postgres_server.sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}", database=name)
    database = Database.open(f"postgresql://{role}@127.0.0.1:{postgres_server.port}/{name}")
    try:
        yield database
    finally:
        await database.close()
        postgres_server.sql(f"DROP OWNED BY {role}; DROP ROLE {role}", database=name)


async def test_a_server_without_permissions_for_sign_ins_is_reported_until_it_grants_them(
    postgres_server: PostgresServer, name: str, restricted: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.storage.database")
    await create(Users(restricted))
    assert await restricted.ping()
    role = f"restricted_{name}"
    for taken, given, message in (
        (f"REVOKE INSERT ON sessions FROM {role}", f"GRANT INSERT ON sessions TO {role}", "INSERT on sessions"),
        (f"REVOKE DELETE ON sessions FROM {role}", f"GRANT DELETE ON sessions TO {role}", "DELETE on sessions"),
        (
            f"REVOKE USAGE ON SEQUENCE audit_id_seq FROM {role}",
            f"GRANT USAGE ON SEQUENCE audit_id_seq TO {role}",
            "seq",
        ),
        ("ALTER TABLE refresh_tokens RENAME TO away", "ALTER TABLE away RENAME TO refresh_tokens", "refresh_tokens"),
        ("REVOKE USAGE ON SCHEMA public FROM public", "GRANT USAGE ON SCHEMA public TO public", "SELECT on users"),
        (f"REVOKE {RIGHTS} ON outbox, links FROM {role}", f"GRANT {RIGHTS} ON outbox, links TO {role}", ""),
        (
            f"REVOKE UPDATE ON users FROM {role}; GRANT UPDATE (version, is_active) ON users TO {role}",
            f"GRANT UPDATE ON users TO {role}",
            "",
        ),
    ):
        postgres_server.sql(taken, database=name)
        assert await restricted.ping() is not bool(message), taken
        assert restricted.available is not bool(message)
        assert await restricted.read(one) == 1, "reads, which end sessions, go on"
        assert message in caplog.messages[-1]
        postgres_server.sql(given, database=name)
        assert await restricted.ping(), given
        assert restricted.available
    await create(Users(restricted), "another@example.com")


WRITABLE = "postgres?options=-c%20default_transaction_read_only%3Doff"


@pytest.fixture
def fenced(own_postgres: PostgresServer, name: str) -> Iterator[PostgresServer]:
    """A server that accepts no changes, with a database of the same name."""
    own_postgres.sql(f"CREATE DATABASE {name}")
    own_postgres.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    own_postgres.sql("SELECT pg_reload_conf()")
    eventually(lambda: "on" in own_postgres.sql("SHOW default_transaction_read_only"))
    yield own_postgres
    own_postgres.sql("ALTER SYSTEM RESET default_transaction_read_only", database=WRITABLE)
    own_postgres.sql("SELECT pg_reload_conf()")
    eventually(lambda: "off" in own_postgres.sql("SHOW default_transaction_read_only"))


async def test_the_host_that_takes_changes_is_found_among_several(
    postgres_server: PostgresServer, fenced: PostgresServer, name: str, direct: Database
) -> None:
    hosts = f"127.0.0.1:{fenced.port},127.0.0.1:{postgres_server.port}"
    database = Database.open(f"postgresql://postgres@{hosts}/{name}")
    try:
        ann = await create(Users(database))
        assert await Users(direct).user(ann.id) == ann
    finally:
        await database.close()


async def test_serving_does_not_start_over_a_server_that_takes_no_changes(fenced: PostgresServer, name: str) -> None:
    database = Database.open(fenced.url(name))
    try:
        with pytest.raises(CannotStart, match="read-only"):
            await schema.prepare(database)
    finally:
        await database.close()


@pytest.fixture
def narrow(own_postgres: PostgresServer) -> Iterator[str]:
    """The name of a database that accepts two connections."""
    made = own_postgres.create_database()
    own_postgres.sql(f"CREATE ROLE gateway LOGIN; ALTER DATABASE {made} CONNECTION LIMIT 2")
    yield made
    own_postgres.drop_database(made)
    own_postgres.sql("DROP ROLE gateway")


async def test_a_server_that_is_full_is_down(own_postgres: PostgresServer, narrow: str) -> None:
    database = Database.open(own_postgres.url(narrow).replace("postgres@", "gateway@"))
    try:
        outcomes = await asyncio.gather(*(answers_slowly(database) for _ in range(8)))
        assert not all(outcomes)
        assert not database.available
        own_postgres.sql(f"ALTER DATABASE {narrow} CONNECTION LIMIT 20")
        assert await until_it_answers(database, within=5.0) < 5.0
    finally:
        await database.close()


async def answers_slowly(database: Database) -> bool:
    try:
        await database.read(lambda connection: connection.execute(text("SELECT pg_sleep(0.1)")) and None)
    except StorageUnavailable:
        return False
    return True


# ---- isolation


async def test_a_server_whose_default_is_serializable_serves_parallel_sign_ins(
    postgres_server: PostgresServer, name: str, direct: Database, clock: Clock
) -> None:
    ann = await create(Users(direct))
    postgres_server.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    database = Database.open(postgres_server.url(name), limits=COMMAND)
    try:
        sessions = Sessions(database, clock=clock)
        began = [sessions.open(ann.id, new_session(clock), verified="hash") for _ in range(32)]
        outcomes = await asyncio.gather(*began, return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
        level = await database.write(lambda c: str(c.execute(text("SHOW transaction_isolation")).scalar_one()))
        assert level == "read committed"
    finally:
        await database.close()


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_transaction_that_met_another_one_is_done_again(direct: Database, state: str) -> None:
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(1)
        if len(runs) < 3:
            connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{state}'; END $$"))
        return one(connection)

    assert await direct.write(work) == 1
    assert len(runs) == 3


async def test_a_conflict_that_the_commit_reports_is_done_again(
    postgres_server: PostgresServer, direct: Database, name: str
) -> None:
    body = "IF nextval('tries') < 3 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF; RETURN NULL;"
    for statement in (
        "CREATE SEQUENCE tries",
        f"CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION conflict()",
    ):
        postgres_server.sql(statement, database=name)
    await create(Users(direct))
    assert postgres_server.sql("SELECT last_value, (SELECT count(*) FROM users) FROM tries", database=name) == "3|1\n"


async def test_a_conflict_that_does_not_end_is_an_error(direct: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(StorageUnavailable, match="conflict"):
        await direct.write(work)


# ---- pgbouncer

PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


POOLER = """\
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""


@pytest.fixture(params=["transaction", "session"])
def pooled_url(request: pytest.FixtureRequest, postgres_server: PostgresServer, name: str) -> Iterator[str]:
    """The URL of the database through a real pgbouncer with two connections to the server."""
    if not Path(PGBOUNCER).exists():
        pytest.skip("pgbouncer is not installed")
    size = 2 if request.param == "transaction" else 20
    with tempfile.TemporaryDirectory(prefix="gateway-pgbouncer-") as folder:
        port = free_port()
        configuration = Path(folder, "pgbouncer.ini")
        configuration.write_text(POOLER.format(port=port, mode=request.param, size=size, server=postgres_server.port))
        Path(folder).chmod(0o755)  # pgbouncer refuses to run as root
        command = [PGBOUNCER, "-q", *(["-u", "nobody"] if os.geteuid() == 0 else []), str(configuration)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"postgresql://postgres@127.0.0.1:{port}/{name}"
        try:
            eventually(lambda: postgres_server.answers_at(url), timeout=10.0, every=0.05)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


async def test_the_gateway_works_through_pgbouncer(pooled_url: str) -> None:
    database = Database.open(pooled_url, limits=COMMAND)
    try:
        assert await schema.upgrade(database) is True
        await schema.prepare(database)
        users = Users(database)
        made = await asyncio.gather(*(create(users, f"user{number}@example.com") for number in range(40)))
        for _ in range(3):
            read = await asyncio.gather(*(users.user(record.id) for record in made))
            assert read == made
        assert await database.ping()
    finally:
        await database.close()


async def test_a_transaction_through_pgbouncer_is_bounded_too(pooled_url: str) -> None:
    database = Database.open(pooled_url)
    try:
        await database.write(lambda connection: one(connection) and None)
        names = ("idle_in_transaction_session_timeout", "transaction_timeout", "lock_timeout")

        def settings(connection: Connection) -> list[str]:
            return [connection.execute(text(f"SHOW {each}")).scalar_one() for each in names]

        assert await database.write(settings) == ["5s", "5s", "2s"]
    finally:
        await database.close()
