"""Lists of millions of users and records: each page is read from an index in order, without sorting or scanning."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event

from gateway.accounts.store import AuditPlace, AuditSelection, Selection
from gateway.storage import schema
from gateway.storage.audit import AuditTrail
from gateway.storage.database import COMMAND, Database
from gateway.storage.users import Users
from tests.support.databases import create

MOMENT = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
async def database(tmp_path: Path) -> Iterator[Database]:  # type: ignore[misc]
    """SQLite, whose query plan does not depend on the number of rows."""
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}", limits=COMMAND)
    try:
        await schema.upgrade(database)
        for name in ("ann", "bob"):
            await create(Users(database), f"{name}@example.com", "user")
        yield database
    finally:
        await database.close()


async def plans(database: Database, work: object) -> list[str]:
    """The query plan of the last statement of some work."""
    statements: list[tuple[str, object]] = []

    def note(*arguments: object) -> None:
        statements.append((str(arguments[2]), arguments[3]))

    event.listen(Engine, "before_cursor_execute", note)
    await work  # type: ignore[misc]
    event.remove(Engine, "before_cursor_execute", note)
    text, parameters = statements[-1]

    def explained(connection: Connection) -> list[str]:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)  # type: ignore[arg-type]
        return [row[3] for row in rows]

    return await database.read(explained)


@pytest.mark.parametrize(
    ("selection", "index"),
    [
        (Selection(), "sqlite_autoindex_users_2"),
        (Selection(after="ann@example.com"), "sqlite_autoindex_users_2 (canonical>?)"),
        (Selection(query="a"), "sqlite_autoindex_users_2 (canonical>? AND canonical<?)"),
        (Selection(query="@exam"), "ix_users_at_domain (<expr>>? AND <expr><?)"),
        (Selection(query="@exam", after="ann@example.com"), "ix_users_at_domain"),
        (Selection(active=False), "ix_users_is_active_canonical (is_active=?)"),
        (
            Selection(active=False, query="a"),
            "ix_users_is_active_canonical (is_active=? AND canonical>? AND canonical<?)",
        ),
    ],
)
async def test_users(database: Database, selection: Selection, index: str) -> None:
    plan = await plans(database, Users(database).page(selection))
    assert index in plan[0], plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


@pytest.mark.parametrize(
    ("selection", "index"),
    [
        (AuditSelection(), "ix_audit_at_id"),
        (AuditSelection(after=AuditPlace(MOMENT, 7)), "ix_audit_at_id"),
        (AuditSelection(until=MOMENT), "ix_audit_at_id (at<?)"),
        (AuditSelection(subject="u"), "ix_audit_subject_at_id (subject=?"),
        (AuditSelection(actor="u", since=MOMENT), "ix_audit_actor_at_id (actor=? AND at>?"),
        (AuditSelection(action="user.created"), "ix_audit_action_at_id (action=?"),
    ],
)
async def test_the_audit_trail(database: Database, selection: AuditSelection, index: str) -> None:
    plan = await plans(database, AuditTrail(database).page(selection))
    assert index in plan[0], plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
