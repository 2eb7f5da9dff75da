"""Blocked subjects of external issuers, on SQLite and PostgreSQL."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from gateway.identity.user import COMMAND_LINE, Actor, ClientInfo, UserRecord
from gateway.storage.database import Database
from gateway.storage.subjects import AllUsers, Subjects
from gateway.storage.tables import audit
from gateway.storage.users import Users
from tests.support.databases import Clock, create

BOB = "idp|bob"
ANN = Actor("ann", ClientInfo("192.0.2.1", "curl/8", "request-7"))


@pytest.fixture
def subjects(database: Database, clock: Clock) -> Subjects:
    return Subjects(database, clock=clock)


async def trail(database: Database) -> list[tuple[Any, ...]]:
    query = select(audit.c.action, audit.c.actor, audit.c.subject, audit.c.before, audit.c.after).order_by(audit.c.id)
    return [tuple(row) for row in await database.read(lambda connection: connection.execute(query).all())]


async def test_an_unblocked_subject_is_active_and_has_nothing_else(subjects: Subjects) -> None:
    record = await subjects.user(BOB)
    assert (record.id, record.email, record.is_active, record.roles, record.version) == (BOB, "", True, frozenset(), 0)
    assert record.created_at.utcoffset() is not None and await subjects.blocked() == ()


async def test_a_blocked_subject_is_inactive_until_it_is_let_in_again(subjects: Subjects, clock: Clock) -> None:
    assert not (await subjects.block(BOB, "left us", by=ANN)).is_active
    assert not (await subjects.user(BOB)).is_active and (await subjects.user("idp|bo")).is_active
    (found,) = await subjects.blocked()
    assert (found.subject, found.at, found.by, found.reason) == (BOB, clock.instant, "ann", "left us")
    record = await subjects.unblock(BOB, by=COMMAND_LINE)
    assert record is not None and record.is_active and await subjects.user(BOB) == record
    assert await subjects.blocked() == ()


async def test_the_version_grows_with_every_change_for_good(subjects: Subjects) -> None:
    versions = []
    for _ in range(3):
        versions.append((await subjects.block(BOB, "", by=ANN)).version)
        record = await subjects.unblock(BOB, by=ANN)
        assert record is not None
        versions.append(record.version)
    assert versions == [1, 2, 3, 4, 5, 6]


async def test_blocking_twice_has_no_effect_and_an_unblocked_subject_cannot_be_unblocked(
    subjects: Subjects, database: Database
) -> None:
    assert await subjects.unblock(BOB, by=ANN) is None
    first = await subjects.block(BOB, "one", by=ANN)
    assert await subjects.block(BOB, "two", by=COMMAND_LINE) == first
    assert (await subjects.blocked())[0].reason == "one"
    assert await subjects.unblock(BOB, by=ANN) is not None and await subjects.unblock(BOB, by=ANN) is None
    assert await trail(database) == [
        ("subject.blocked", "ann", BOB, {"is_blocked": False}, {"is_blocked": True, "reason": "one"}),
        ("subject.unblocked", "ann", BOB, {"is_blocked": True}, {"is_blocked": False}),
    ]


async def test_of_many_concurrent_blocks_one_takes_effect(subjects: Subjects, database: Database) -> None:
    records = await asyncio.gather(*(subjects.block(BOB, str(number), by=ANN) for number in range(10)))
    assert {record.version for record in records} == {1} and len(await trail(database)) == 1


async def test_those_that_are_blocked_come_in_the_order_of_their_names(subjects: Subjects) -> None:
    names = ["idp|b", "idp|B", "idp|ä", "a|z", "idp|a|b"]
    for name in names:
        await subjects.block(name, "", by=ANN)
    assert [found.subject for found in await subjects.blocked()] == sorted(names)


async def test_every_user_is_found_by_id_and_address(subjects: Subjects, database: Database, clock: Clock) -> None:
    users = Users(database, clock=clock)
    user: UserRecord = await create(users)
    all_users = AllUsers(users, subjects)
    assert await all_users.user(user.id) == user and await all_users.user("nobody") is None
    assert await all_users.user(BOB) == await subjects.user(BOB)
    found = await all_users.user(f"idp|{user.id}")
    assert found is not None and found.roles == frozenset()
