"""Users in the database, on SQLite and PostgreSQL."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, Engine, event, func, select

from gateway.accounts.store import NewSession, PasswordEffects, Selection
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.user import COMMAND_LINE, Actor, ClientInfo, UserRecord
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.tables import audit, refresh_tokens, sessions, user_roles
from gateway.storage.tables import users as users_table
from gateway.storage.transactions import add_session
from gateway.storage.users import Users
from tests.support.databases import Clock, create, new_session, new_user

ADMINS = frozenset({"admin"})
ANN_AT_HER_DESK = ClientInfo("192.0.2.1", "curl/8", "request-7")


async def rows(database: Database, table: str) -> int:
    tables = {"users": users_table, "roles": user_roles, "sessions": sessions, "tokens": refresh_tokens}
    count = select(func.count()).select_from(tables[table])
    return await database.read(lambda connection: connection.execute(count).scalar_one())


async def trail(database: Database) -> list[tuple[str, str, str]]:
    """Action, actor and subject of every audit record, oldest first."""
    query = select(audit.c.action, audit.c.actor, audit.c.subject).order_by(audit.c.id)
    found = await database.read(lambda connection: connection.execute(query).all())
    return [tuple(row) for row in found]


# ---- reading


async def test_a_user_is_read_back_as_it_was_made(users: Users, clock: Clock) -> None:
    made = new_user("Änne@example.com", "user", "a, role / of sorts")
    record = await users.create(made, by=Actor(made.id))
    assert record == UserRecord(made.id, "Änne@example.com", True, made.roles, clock.instant, 1, frozenset())
    assert await users.user(made.id) == record
    assert await users.by_email("änne@example.com") == record
    assert record.created_at.utcoffset() is not None


async def test_a_user_without_roles_has_none(users: Users) -> None:
    made = dataclasses.replace(new_user(), roles=frozenset())
    assert (await users.create(made, by=Actor(made.id))).roles == frozenset()


@pytest.mark.parametrize(
    ("hashes", "most"),
    [
        ([], 0),
        (["!", "", "$1$12$x"], 0),
        (["$2b$04$" + "a" * 53, "$2a$11$" + "b" * 53, "$2y$09$" + "c" * 53], 11),
        (["$2b$10$" + "a" * 53, "$2b$17$" + "a" * 53, "$2b$14$" + "a" * 52, "$5b$15$" + "a" * 53], 10),
    ],
)
async def test_the_costliest_hash_is_known(users: Users, hashes: list[str], most: int) -> None:
    for number, password_hash in enumerate(hashes):
        made = new_user(f"user{number}@example.com", password_hash=password_hash)
        await users.create(made, by=Actor(made.id))
    assert await users.most_rounds() == most


async def test_a_missing_user_is_none(users: Users) -> None:
    assert await users.user("5d0f8d6e-0000-4000-8000-000000000000") is None
    assert await users.by_email("nobody@example.com") is None
    assert await users.credentials("nobody@example.com") is None
    assert await users.credentials_of("nobody") is None


@pytest.mark.parametrize("odd", ["", "\0", "a\0b", "\ud800", "x" * 65, "a b", "idp|subject", "ü", "';--"])
async def test_a_text_that_cannot_be_a_user_id_is_none(users: Users, odd: str) -> None:
    assert await users.user(odd) is None


async def test_credentials_are_found_by_address_and_by_id(users: Users) -> None:
    record = await create(users)
    assert await users.credentials("ann@example.com") == (record.id, "hash", True, "ann@example.com", False)
    assert await users.credentials_of(record.id) == (record.id, "hash", True, "ann@example.com", False)


async def test_a_user_is_read_in_one_statement(users: Users, database: Database) -> None:
    record = await create(users, "ann@example.com", "a", "b")
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", note)
    assert await users.user(record.id) == record
    event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) == 1


# ---- creating


async def test_of_fifty_accounts_with_one_address_at_once_one_is_made(users: Users, database: Database) -> None:
    async def attempt() -> str:
        try:
            return (await create(users)).id
        except Refusal as refusal:
            return refusal.code

    outcomes = await asyncio.gather(*(attempt() for _ in range(50)))
    assert sorted(outcomes, key=len)[:49] == ["email_taken"] * 49
    assert await rows(database, "users") == 1
    assert await trail(database) == [("user.created", max(outcomes, key=len), max(outcomes, key=len))]


async def test_an_account_that_is_refused_leaves_nothing_behind(users: Users, database: Database, clock: Clock) -> None:
    await create(users)
    again = new_user()
    with pytest.raises(Refusal, match="email_taken"):
        await users.create(again, by=Actor(again.id), session=new_session(clock))
    assert await rows(database, "sessions") == 0
    assert await rows(database, "roles") == 1


async def test_the_first_session_is_made_with_the_account(users: Users, database: Database, clock: Clock) -> None:
    made = new_user()
    await users.create(made, by=Actor(made.id), session=new_session(clock))
    assert (await rows(database, "sessions"), await rows(database, "tokens")) == (1, 1)


# ---- changing

Change = Callable[[Users, str], Awaitable[UserRecord | None]]
CHANGES: dict[str, Change] = {
    "user.disabled": lambda users, id_: users.change(id_, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS),
    "user.roles_set": lambda users, id_: users.change(
        id_, roles=frozenset({"x", "y"}), by=COMMAND_LINE, admin_roles=ADMINS
    ),
    "user.password_changed": lambda users, id_: users.set_password(id_, "other", by=COMMAND_LINE),
}


@pytest.mark.parametrize("action", CHANGES)
async def test_every_change_raises_the_version_and_is_audited(users: Users, database: Database, action: str) -> None:
    record = await create(users)
    after = await CHANGES[action](users, record.id)
    assert after is not None and after.version == record.version + 1
    assert await users.user(record.id) == after
    assert (await trail(database))[1:] == [(action, "command-line", record.id)]


@pytest.mark.parametrize("action", [*CHANGES, "user.deleted"])
async def test_a_missing_user_cannot_be_changed(users: Users, database: Database, action: str) -> None:
    if action in CHANGES:
        assert await CHANGES[action](users, "nobody") is None
    else:
        assert await users.delete("nobody", by=COMMAND_LINE, admin_roles=ADMINS) is None
    assert await trail(database) == []


async def test_a_user_can_be_disabled_and_enabled(users: Users) -> None:
    record = await create(users)
    disabled = await users.change(record.id, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS)
    assert disabled is not None and not disabled.is_active
    assert (await users.credentials_of(record.id)) == (record.id, "hash", False, "ann@example.com", False)
    enabled = await users.change(record.id, is_active=True, by=COMMAND_LINE, admin_roles=ADMINS)
    assert enabled is not None and enabled.is_active and enabled.version == 3


async def test_a_change_without_effect_is_none(users: Users, database: Database) -> None:
    record = await create(users)
    assert await users.change(record.id, is_active=True, by=COMMAND_LINE, admin_roles=ADMINS) == record
    assert await users.change(record.id, roles=frozenset({"user"}), by=COMMAND_LINE, admin_roles=ADMINS) == record
    assert len(await trail(database)) == 1


async def test_roles_are_replaced(users: Users) -> None:
    record = await create(users, "ann@example.com", "a", "b")
    after = await users.change(record.id, roles=frozenset({"b", "c"}), by=COMMAND_LINE, admin_roles=ADMINS)
    assert after is not None and after.roles == {"b", "c"}
    none = await users.change(record.id, roles=frozenset(), by=COMMAND_LINE, admin_roles=ADMINS)
    assert none is not None and none.roles == frozenset()


async def test_the_audit_trail_names_actor_action_time_address_and_both_states(
    users: Users, database: Database, clock: Clock
) -> None:
    record = await create(users)
    by = Actor("root", ANN_AT_HER_DESK)
    await users.change(record.id, roles=frozenset({"editor"}), by=by, admin_roles=ADMINS)
    found = await database.read(
        lambda connection: connection.execute(select(audit).order_by(audit.c.id.desc()).limit(1)).mappings().one()
    )
    assert found == {
        "id": 2,
        "at": clock.instant,
        "action": "user.roles_set",
        "actor": "root",
        "subject": record.id,
        "address": "192.0.2.1",
        "request_id": "request-7",
        "before": {"roles": ["user"]},
        "after": {"roles": ["editor"]},
    }


async def test_a_password_changed_during_the_request_is_not_changed_again(users: Users) -> None:
    record = await create(users)
    assert await users.set_password(record.id, "mine", by=Actor(record.id), verified="another") is None
    assert (await users.credentials_of(record.id)) == (record.id, "hash", True, "ann@example.com", False)


async def test_a_new_password_ends_every_session_but_the_one_to_keep(
    users: Users, database: Database, clock: Clock
) -> None:
    record = await create(users)
    opened = [new_session(clock) for _ in range(3)]
    for session in opened:
        await Sessions(database, clock=clock).open(record.id, session, verified="hash")
    kept = await users.set_password(
        record.id, "new", by=Actor(record.id), verified="hash", effects=PasswordEffects(opened[0].id)
    )
    assert kept is not None and kept.ended_sessions == {opened[1].id, opened[2].id}
    all_ended = await users.set_password(record.id, "newer", by=COMMAND_LINE)
    assert all_ended is not None and all_ended.ended_sessions == {session.id for session in opened}


# ---- deleting


async def test_a_deleted_user_is_gone_with_everything_but_the_audit_trail(
    users: Users, database: Database, clock: Clock
) -> None:
    made = new_user()
    record = await users.create(made, by=Actor(made.id), session=new_session(clock))
    assert await users.delete(record.id, by=COMMAND_LINE, admin_roles=ADMINS) == record
    assert await users.user(record.id) is None
    assert [await rows(database, table) for table in ("users", "roles", "sessions", "tokens")] == [0, 0, 0, 0]
    assert [action for action, _, _ in await trail(database)] == ["user.created", "user.deleted"]
    assert (await create(users)).id != record.id, "the address is free again"


# ---- the last administrator

TAKING_AWAY: dict[str, Change] = {
    "disable": lambda users, id_: users.change(id_, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS),
    "demote": lambda users, id_: users.change(id_, roles=frozenset({"user"}), by=COMMAND_LINE, admin_roles=ADMINS),
    "delete": lambda users, id_: users.delete(id_, by=COMMAND_LINE, admin_roles=ADMINS),
}


@pytest.mark.parametrize("how", TAKING_AWAY)
async def test_the_last_active_admin_stays(users: Users, database: Database, how: str) -> None:
    root = await create(users, "root@example.com", "admin")
    idle = await create(users, "idle@example.com", "admin")
    await users.change(idle.id, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS)
    before = await trail(database)
    with pytest.raises(Refusal, match="last_admin"):
        await TAKING_AWAY[how](users, root.id)
    assert await users.user(root.id) == root
    assert await trail(database) == before


@pytest.mark.parametrize("how", TAKING_AWAY)
async def test_any_other_admin_may_go(users: Users, how: str) -> None:
    await create(users, "root@example.com", "admin")
    second = await create(users, "second@example.com", "admin", "user")
    await TAKING_AWAY[how](users, second.id)
    now = await users.user(second.id)
    assert now is None or not now.is_active or "admin" not in now.roles


async def test_a_disabled_admin_may_go_even_as_the_only_one(users: Users) -> None:
    root = await create(users, "root@example.com", "admin")
    second = await create(users, "second@example.com", "admin")
    await users.change(second.id, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS)
    assert await users.delete(second.id, by=COMMAND_LINE, admin_roles=ADMINS) is not None
    assert await users.user(root.id) == root


async def test_a_role_that_implies_administration_counts(users: Users) -> None:
    both = frozenset({"admin", "root"})
    root = await create(users, "root@example.com", "root")
    admin = await create(users, "admin@example.com", "admin")
    assert await users.delete(admin.id, by=COMMAND_LINE, admin_roles=both) is not None
    with pytest.raises(Refusal, match="last_admin"):
        await users.delete(root.id, by=COMMAND_LINE, admin_roles=both)


@pytest.mark.parametrize("how", TAKING_AWAY)
async def test_of_ten_admins_taken_away_at_the_same_time_one_stays(users: Users, how: str) -> None:
    admins = [await create(users, f"admin{number}@example.com", "admin") for number in range(10)]

    async def attempt(user_id: str) -> str:
        try:
            await TAKING_AWAY[how](users, user_id)
        except Refusal as refusal:
            return refusal.code
        return "gone"

    outcomes = await asyncio.gather(*(attempt(admin.id) for admin in admins))
    assert sorted(outcomes) == ["gone"] * 9 + ["last_admin"]
    left = await users.page(Selection(role="admin", active=True))
    assert len(left.users) == 1


# ---- lists


async def test_pages_follow_each_other_without_gaps_or_repeats(users: Users) -> None:
    emails = [f"user{number:02d}@example.com" for number in range(25)] + ["Zoë@example.com", "ärger@example.com"]
    for email in emails:
        await create(users, email)
    seen: list[str] = []
    after: str | None = None
    for _ in range(10):
        page = await users.page(Selection(limit=4, after=after))
        seen += [user.email for user in page.users]
        after = page.next
        if after is None:
            break
    assert seen == sorted(emails, key=str.casefold)


async def test_a_full_last_page_has_no_next(users: Users) -> None:
    for number in range(4):
        await create(users, f"user{number}@example.com")
    assert (await users.page(Selection(limit=4))).next is None
    assert (await users.page(Selection(limit=3))).next == "user2@example.com"


SELECTIONS = [
    (Selection(query="ann"), {"ann"}),
    (Selection(query="ann@example.com"), {"ann"}),
    (Selection(query="nn"), set()),
    (Selection(query="cle%"), {"cle%"}),
    (Selection(query="%"), set()),
    (Selection(query="_"), set()),
    (Selection(query="@"), {"ann", "bob", "cle%"}),
    (Selection(query="@exam"), {"ann", "bob", "cle%"}),
    (Selection(query="@example.com", active=True), {"ann", "bob"}),
    (Selection(query="@xample"), set()),
    (Selection(query="@example.com", after="bob@example.com"), {"cle%"}),
    (Selection(query="b", after="ann@example.com"), {"bob"}),
    (Selection(role="admin"), {"bob"}),
    (Selection(role="nobody"), set()),
    (Selection(active=False), {"cle%"}),
    (Selection(active=True, role="user"), {"ann", "bob"}),
    (Selection(after="bob@example.com"), {"cle%"}),
]


@pytest.mark.parametrize("few", [0, 1000])
async def test_lists_can_be_narrowed(users: Users, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Including by a role with too many users for individual lookups."""
    monkeypatch.setattr("gateway.storage.user_queries.FEW_HOLDERS", few)
    await create(users, "ann@example.com", "user")
    await create(users, "bob@example.com", "user", "admin")
    clement = await create(users, "cle%@example.com", "user")
    await users.change(clement.id, is_active=False, by=COMMAND_LINE, admin_roles=ADMINS)
    for selection, expected in SELECTIONS:
        page = await users.page(selection)
        assert {user.email.partition("@")[0] for user in page.users} == expected, selection


# ---- several sessions of one user


async def open_sessions(database: Database, clock: Clock, user_id: str, count: int) -> list[NewSession]:
    opened = [new_session(clock) for _ in range(count)]
    for session in opened:
        assert await Sessions(database, clock=clock).open(user_id, session, verified="hash")
    return opened


async def test_ended_sessions_are_in_the_record_while_an_access_token_may_live(
    users: Users, database: Database, clock: Clock
) -> None:
    record = await create(users)
    session, other = await open_sessions(database, clock, record.id, 2)
    ended = await Sessions(database, clock=clock).end(record.id, session.id, reason="logout", by=Actor(record.id))
    assert ended is not None and ended.ended_sessions == {session.id}
    clock.now += 99.9
    assert await users.user(record.id) == ended
    clock.now += 0.2
    later = await users.user(record.id)
    assert later is not None and later.ended_sessions == frozenset()
    assert other.id not in ended.ended_sessions


async def test_a_foreign_key_is_a_foreign_key(database: Database, clock: Clock) -> None:
    """SQLite enforces foreign keys only if enabled on every connection."""

    def orphan(connection: Connection) -> None:
        add_session(connection, "nobody", new_session(clock), clock.instant)

    with pytest.raises(StorageUnavailable, match=r"(?i)foreign"):
        await database.write(orphan)
