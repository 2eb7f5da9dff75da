"""Creating and migrating the tables, and the errors for an unsuitable schema."""

import asyncio
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from gateway.errors import CannotStart, StorageUnavailable
from gateway.storage import schema
from gateway.storage.database import Database
from gateway.storage.migrations import configuration, migrate
from gateway.storage.tables import VERSION_TABLE, metadata
from gateway.storage.users import Users
from tests.support.databases import create
from tests.support.launcher import launch

ROOT = Path(__file__).parents[2]
# SQLAlchemy cannot reflect expression indexes of SQLite, so the tests compare their SQL text below.
pytestmark = pytest.mark.filterwarnings(
    "ignore:autogenerate skipping metadata-specified expression-based index", "ignore:Skipped unsupported reflection"
)


def step_by_step(connection: Connection) -> None:
    migrate(connection, schema.HEAD)


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, metadata))


async def test_migrations_come_to_the_tables_that_are_declared(empty_url: str) -> None:
    database = Database.open(empty_url)
    try:
        await database.write(step_by_step, limit=30)
        assert await schema.is_current(database)
        assert await database.read(differences, limit=30) == []
    finally:
        await database.close()


async def test_an_empty_database_gets_the_same_tables_at_once(empty_url: str) -> None:
    database = Database.open(empty_url)
    try:
        assert not await schema.is_current(database)
        assert await schema.upgrade(database) is True
        assert await schema.is_current(database)
        assert await database.read(differences, limit=30) == []
        assert await schema.upgrade(database) is False
    finally:
        await database.close()


async def layout(database: Database) -> list[str]:
    """The description of the tables by PostgreSQL or SQLite itself, in no particular order."""
    sqlite = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%' AND name <> 'gateway_schema'"
    postgres = """
        SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default
        FROM information_schema.columns WHERE table_schema = 'public'"""
    indexes = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    queries = [sqlite] if database.dialect == "sqlite" else [postgres, indexes]

    def work(connection: Connection) -> list[str]:
        rows = [str(value) for query in queries for row in connection.execute(text(query)) for value in row]
        return sorted(re.findall(r"\w+", " ".join(rows)))

    return await database.read(work, limit=30)


async def test_both_ways_make_the_same_database_to_the_word(empty_url: str) -> None:
    database = Database.open(empty_url)
    try:
        await schema.upgrade(database)
        at_once = await layout(database)
        await database.write(lambda connection: metadata.drop_all(connection), limit=30)
        await database.write(lambda connection: connection.execute(text("DROP TABLE gateway_schema")) and None)
        await database.write(step_by_step, limit=30)
        assert await layout(database) == at_once
    finally:
        await database.close()


def test_the_revisions_are_those_of_the_migrations_in_their_order() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS
    assert scripts.get_current_head() == schema.HEAD


async def test_a_database_in_memory_can_be_used(tmp_path: Path) -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        database = Database.open(url)
        try:
            await schema.prepare(database)
            users = Users(database)
            made = await asyncio.gather(*(create(users, f"user{number}@example.com") for number in range(20)))
            read = await asyncio.gather(*(users.user(record.id) for record in made))
            assert read == made
        finally:
            await database.close()


# ---- prepare: the first step of serve


async def test_serving_brings_an_sqlite_file_up_to_date(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
    try:
        await schema.prepare(database)
        await schema.prepare(database)
        assert await schema.is_current(database)
    finally:
        await database.close()


async def run(database: Database, *statements: str) -> None:
    def work(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await database.write(work, limit=30)


async def one_value(database: Database, query: str) -> object:
    return await database.read(lambda connection: connection.execute(text(query)).scalar_one())


ANN = """
    INSERT INTO users (id, email, canonical, password_hash, is_active, version, created_at)
    VALUES ('ann', 'Ann@example.com', 'ann@example.com', 'hash', true, 7, 5)
"""


def as_made_by_0_1(connection: Connection) -> None:
    command.upgrade(configuration(connection, "alembic_version"), "0004")


async def test_a_database_of_version_0_1_is_migrated_with_its_accounts(empty_url: str) -> None:
    database = Database.open(empty_url)
    try:
        await database.write(as_made_by_0_1, limit=30)
        await run(database, ANN)
        assert await schema.revision(database) == "0004"
        assert await schema.upgrade(database) is True
        assert await schema.is_current(database)
        ann = await Users(database).user("ann")
        assert ann is not None and (ann.email, ann.version, ann.email_verified) == ("Ann@example.com", 7, False)
        assert await database.read(differences, limit=30) == []
    finally:
        await database.close()


async def test_accounts_and_their_open_sessions_survive_the_migration_for_browser_sessions(empty_url: str) -> None:
    statements = (
        ANN,
        "INSERT INTO user_roles VALUES ('ann', 'user')",
        "INSERT INTO sessions (id, user_id, family, created_at, used_at, expires_at, access_until, address, user_agent)"
        " VALUES ('s', 'ann', 'family', 8, 9, 10, 11, '', '')",
        "INSERT INTO refresh_tokens (digest, session_id) VALUES ('digest', 's')",
    )
    database = Database.open(empty_url)
    try:
        await database.write(lambda connection: migrate(connection, "0005"), limit=30)
        await run(database, *statements)
        assert await schema.upgrade(database) is True
        whole = await Users(database).user("ann")
        assert whole is not None and (whole.version, set(whole.roles), whole.email_verified) == (7, {"user"}, False)
        assert await one_value(database, "SELECT password_hash FROM users") == "hash"
        assert await one_value(database, "SELECT count(*) FROM refresh_tokens WHERE session_id = 's'") == 1
        found = "SELECT kind || acr || amr || authenticated_at FROM sessions"
        assert await one_value(database, found) == "tokenaal1pwd8"
        await run(database, "UPDATE users SET password_hash = NULL")
    finally:
        await database.close()


@pytest.mark.parametrize("version", ["a1b2c3d4", "0004", "0001"])
async def test_an_application_in_the_same_database_can_use_alembic_too(empty_url: str, version: str) -> None:
    database = Database.open(empty_url)
    try:
        await run(
            database,
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            f"INSERT INTO alembic_version VALUES ('{version}')",
            "CREATE TABLE articles (id INTEGER)",
        )
        assert await schema.upgrade(database) is True
        assert await schema.is_current(database)
        assert await one_value(database, "SELECT version_num FROM alembic_version") == version
    finally:
        await database.close()


@pytest.mark.parametrize("table", ["users", "sessions", "audit", "installation"])
async def test_a_table_of_an_application_is_not_taken_for_one_of_the_gateway(empty_url: str, table: str) -> None:
    database = Database.open(empty_url)
    try:
        await run(database, f"CREATE TABLE {table} (id INTEGER)")
        with pytest.raises(CannotStart, match=f"has a table '{table}' that the gateway did not make"):
            await schema.upgrade(database)
        assert await schema.revision(database) is None
    finally:
        await database.close()


async def test_the_gateway_can_have_a_schema_of_its_own_beside_an_application(postgres_url: str) -> None:
    beside = Database.open(postgres_url)
    database = Database.open(f"{postgres_url}?search_path=gateway")
    try:
        await run(beside, "CREATE TABLE users (id INTEGER)", "CREATE SCHEMA gateway")
        await schema.upgrade(database)
        await create(Users(database))
        assert await one_value(beside, "SELECT count(*) FROM gateway.users") == 1
        assert await one_value(beside, "SELECT count(*) FROM users") == 0
    finally:
        await database.close()
        await beside.close()


async def test_every_installation_has_an_id_of_its_own(empty_url: str, tmp_path: Path) -> None:
    ids = set()
    for url, made in ((empty_url, schema.upgrade), (f"sqlite:///{tmp_path}/other.db", by_steps)):
        database = Database.open(url)
        try:
            await made(database)
            ids.add(await one_value(database, "SELECT id FROM installation"))
        finally:
            await database.close()
    assert len(ids) == 2


async def by_steps(database: Database) -> bool:
    await database.write(step_by_step, limit=30)
    return True


async def test_serving_refuses_a_postgresql_without_tables_and_names_the_command(postgres_url: str) -> None:
    database = Database.open(postgres_url)
    try:
        with pytest.raises(CannotStart, match="has no tables yet; run: gateway db upgrade"):
            await schema.prepare(database)
        await schema.upgrade(database)
        await schema.prepare(database)
    finally:
        await database.close()


async def test_serving_refuses_an_outdated_postgresql_and_names_the_command(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(postgres_url)
    try:
        await schema.upgrade(database)
        found = schema.HEAD
        monkeypatch.setattr(schema, "HEAD", "next")
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "next"))
        with pytest.raises(CannotStart, match=rf"outdated schema \({found}, needed: next\); run: gateway db upgrade"):
            await schema.prepare(database)
    finally:
        await database.close()


async def test_a_database_of_a_newer_gateway_is_left_alone(empty_url: str) -> None:
    database = Database.open(empty_url)
    try:
        await schema.upgrade(database)
        newer = text("UPDATE gateway_schema SET version_num = 'ffff'")
        await database.write(lambda connection: connection.execute(newer) and None)
        for attempt in (schema.prepare, schema.upgrade):
            with pytest.raises(CannotStart, match="newer version of the gateway"):
                await attempt(database)
    finally:
        await database.close()


async def test_an_unreachable_database_is_one_line(tmp_path: Path) -> None:
    database = Database.open("postgresql://nobody:secret-word@127.0.0.1:9/nothing")
    try:
        with pytest.raises(CannotStart, match=r"storage\.database cannot be used: .*; check the address") as raised:
            await schema.prepare(database)
        assert "\n" not in str(raised.value) and "secret-word" not in str(raised.value)
    finally:
        await database.close()


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is not a database, and long enough to look at\n" * 40)
    database = Database.open(f"sqlite:///{tmp_path / 'notes.txt'}")
    try:
        with pytest.raises(CannotStart, match=r"not a database$"):
            await schema.prepare(database)
    finally:
        await database.close()


@pytest.mark.parametrize(
    "url", ["mysql://localhost/x", "gateway.db", "sqlite:/gateway.db", "", "sqlite:///nowhere/x.db"]
)
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(CannotStart):
        Database.open(url)


def test_a_file_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    """The file contains password hashes. An existing file keeps its permissions."""
    made, found = tmp_path / "made.db", tmp_path / "found.db"
    found.touch(0o640)
    before = os.umask(0)
    try:
        for path in (made, found):
            Database.open(f"sqlite:///{path}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.stat().st_mode) == 0o640


PREPARING = """
import asyncio, sys
from gateway.storage import schema
from gateway.storage.database import Database

async def main():
    database = Database.open(sys.argv[1])
    await schema.upgrade(database)
    assert await schema.is_current(database)
    await database.close()

asyncio.run(main())
"""
UNUSED = 'assert "alembic" not in sys.modules and "sqlalchemy.orm" not in sys.modules\n'


def test_processes_that_start_at_the_same_time_make_the_tables_once(empty_url: str, tmp_path: Path) -> None:
    arguments = ["-c", PREPARING, empty_url]
    with (tmp_path / "errors").open("w") as errors, open(os.devnull, "r+b") as null:
        none, error = null.fileno(), errors.fileno()
        started = [launch(arguments, stdin=none, stdout=none, stderr=error, env=os.environ) for _ in range(6)]
        codes = [process.wait(60) for process in started]
    assert codes == [0] * 6, (tmp_path / "errors").read_text()


def test_a_process_that_makes_the_tables_imports_neither_alembic_nor_the_orm(empty_url: str) -> None:
    """They would cost 20 MiB for the life of the process."""
    command = [sys.executable, "-c", PREPARING + UNUSED, empty_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_another_process_at_the_same_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    database = Database.open(f"sqlite:///{path}")
    try:
        assert await schema.revision(database) is None
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            upgrading = asyncio.create_task(schema.upgrade(database))
            await asyncio.sleep(1.0)
            other.execute("ROLLBACK")
        assert await upgrading is True
    finally:
        await database.close()


async def test_a_worker_waits_for_the_one_that_makes_the_file_at_the_same_time(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # not in WAL mode yet: other connections cannot even read
        database = Database.open(f"sqlite:///{tmp_path}/gateway.db")
        try:
            preparing = asyncio.create_task(schema.prepare(database))
            await asyncio.sleep(1)  # longer than SQLite itself waits
            assert not preparing.done()
            other.execute("COMMIT")
            await preparing
            assert await schema.is_current(database)
        finally:
            await database.close()


async def test_a_start_waits_for_a_lock_that_lasts_until_the_circuit_breaker_has_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        database = Database.open(f"sqlite:///{tmp_path}/gateway.db")
        try:
            preparing = asyncio.create_task(schema.prepare(database))
            async with asyncio.timeout(8):
                while database.available:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)  # the next attempts are rejected by the circuit breaker
            assert not preparing.done()
            other.execute("COMMIT")
            await preparing
        finally:
            await database.close()


async def test_a_lock_that_stays_is_the_reason_for_which_a_start_fails(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        database = Database.open(f"sqlite:///{tmp_path}/gateway.db")
        try:
            with pytest.raises(CannotStart, match="cannot be used: OperationalError: database is locked"):
                await schema.prepare(database, patience=3.0)
        finally:
            await database.close()


async def test_a_file_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    database = Database.open(f"sqlite:///{path}")
    try:
        await schema.upgrade(database)

        def pragmas(connection: Connection) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

        assert await database.read(pragmas) == ["wal", 1, 1, 600]
    finally:
        await database.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create_all = metadata.create_all

    def fail(connection: Connection) -> None:
        create_all(connection)
        raise StorageUnavailable("database", "the disk is full")

    monkeypatch.setattr(metadata, "create_all", fail)
    database = Database.open(empty_url)
    try:
        with pytest.raises(StorageUnavailable, match="disk is full"):
            await schema.upgrade(database)
        assert await schema.revision(database) is None
        monkeypatch.undo()
        assert await schema.upgrade(database) is True
    finally:
        await database.close()
