"""Sessions and refresh tokens in the database, on SQLite and PostgreSQL."""

import asyncio
import base64
from datetime import timedelta

import pytest
from sqlalchemy import Connection, func, select

from gateway.accounts.store import ActiveSession, NewSession, Reused, Rotated, Rotation
from gateway.identity.refresh_token import PREFIX, RefreshToken
from gateway.identity.user import COMMAND_LINE, Actor, ClientInfo, UserRecord
from gateway.storage.database import Database
from gateway.storage.sessions import MAX_LIVING, Sessions
from gateway.storage.tables import audit, refresh_tokens
from gateway.storage.tables import sessions as sessions_table
from gateway.storage.users import Users
from tests.support.databases import Clock, create, new_session

GRACE = 10.0


@pytest.fixture
async def opened(sessions: Sessions, ann: UserRecord, clock: Clock) -> NewSession:
    session = new_session(clock)
    assert await sessions.open(ann.id, session, verified="hash") == ann
    return session


class Rotations:
    """Presents refresh tokens; the session then lives as long as a new one."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def __call__(self, token: RefreshToken, *, grace: float = GRACE) -> Rotated | Reused | None:
        expires, access = self._clock.instant + timedelta(seconds=1000), self._clock.instant + timedelta(seconds=100)
        return await self._sessions.rotate(Rotation(token, grace, expires, access, ClientInfo("192.0.2.9", "later")))

    async def successor(self, token: RefreshToken) -> RefreshToken:
        outcome = await self(token)
        assert isinstance(outcome, Rotated)
        return outcome.successor


@pytest.fixture
def rotate(sessions: Sessions, clock: Clock) -> Rotations:
    return Rotations(sessions, clock)


async def count(database: Database) -> tuple[int, int]:
    """The number of sessions and of refresh tokens."""

    def counts(connection: Connection) -> tuple[int, int]:
        first, second = (
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (sessions_table, refresh_tokens)
        )
        return first, second

    return await database.read(counts)


# ---- opening


async def test_a_password_changed_during_the_sign_in_opens_no_session(
    users: Users, sessions: Sessions, ann: UserRecord, clock: Clock, database: Database
) -> None:
    await users.set_password(ann.id, "new", by=COMMAND_LINE)
    assert await sessions.open(ann.id, new_session(clock), verified="hash") is None
    assert await count(database) == (0, 0)


async def test_a_user_disabled_or_deleted_during_the_sign_in_gets_no_session(
    users: Users, sessions: Sessions, ann: UserRecord, clock: Clock
) -> None:
    await users.change(ann.id, is_active=False, by=COMMAND_LINE, admin_roles=())
    assert await sessions.open(ann.id, new_session(clock), verified="hash") is None
    await users.delete(ann.id, by=COMMAND_LINE, admin_roles=())
    assert await sessions.open(ann.id, new_session(clock), verified="hash") is None


async def test_a_hash_of_another_cost_is_replaced_when_the_session_opens(
    users: Users, sessions: Sessions, ann: UserRecord, clock: Clock
) -> None:
    assert await sessions.open(ann.id, new_session(clock), verified="hash", rehashed="stronger") == ann
    assert await users.credentials_of(ann.id) == (ann.id, "stronger", True, "ann@example.com", False)


async def test_nothing_of_a_token_but_its_digest_is_in_the_database(
    database: Database, opened: NewSession, rotate: Rotations
) -> None:
    successor = await rotate.successor(opened.token)
    found = await database.read(
        lambda connection: repr(
            [connection.execute(select(table)).all() for table in (sessions_table, refresh_tokens, audit)]
        )
    )
    for token in (opened.token, successor):
        raw = base64.urlsafe_b64decode(token.text.removeprefix(PREFIX))
        for secret in (raw[:16], raw[16:], raw, token.text.encode()):
            assert repr(secret)[2:-1] not in found


async def test_beyond_the_most_sessions_the_one_unused_for_longest_ends(
    sessions: Sessions, ann: UserRecord, clock: Clock, rotate: Rotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_LIVING == 1000
    monkeypatch.setattr("gateway.storage.sessions.MAX_LIVING", 20)
    several = [new_session(clock) for _ in range(20)]
    for session in several:
        clock.now += 0.1
        assert await sessions.open(ann.id, session, verified="hash") == ann
    await rotate(several[0].token)
    record = await sessions.open(ann.id, new_session(clock), verified="hash")
    assert record is not None and record.version == ann.version + 1
    assert record.ended_sessions == {several[1].id}


async def test_expired_sessions_are_deleted_at_the_next_login(
    sessions: Sessions, ann: UserRecord, clock: Clock, database: Database
) -> None:
    ended, expired, living = (new_session(clock), new_session(clock, ttl=150), new_session(clock))
    for session in (ended, expired, living):
        await sessions.open(ann.id, session, verified="hash")
    await sessions.end(ann.id, ended.id, reason="logout", by=Actor(ann.id))
    clock.now += 99
    await sessions.open(ann.id, new_session(clock), verified="hash")
    assert await count(database) == (4, 4), "an access token of the ended one may still live"
    clock.now += 52
    await sessions.open(ann.id, new_session(clock), verified="hash")
    assert await count(database) == (3, 3)


# ---- rotating


async def test_a_refresh_token_is_replaced_and_its_successor_works(
    ann: UserRecord, opened: NewSession, rotate: Rotations
) -> None:
    outcome = await rotate(opened.token)
    assert isinstance(outcome, Rotated)
    assert (outcome.record, outcome.session_id) == (ann, opened.id)
    assert outcome.successor.text != opened.token.text
    assert isinstance(await rotate(outcome.successor), Rotated)


async def test_a_token_just_replaced_answers_with_the_same_successor(
    opened: NewSession, rotate: Rotations, clock: Clock
) -> None:
    successor = await rotate.successor(opened.token)
    clock.now += GRACE - 0.1
    assert (await rotate.successor(opened.token)).text == successor.text
    assert (await rotate.successor(successor)).text != successor.text


async def test_twenty_refreshes_at_once_make_one_rotation(
    opened: NewSession, rotate: Rotations, database: Database
) -> None:
    successors = await asyncio.gather(*(rotate.successor(opened.token) for _ in range(20)))
    assert len({token.text for token in successors}) == 1
    assert await count(database) == (1, 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
async def test_an_older_token_answers_within_the_grace_with_the_current_one(
    opened: NewSession, rotate: Rotations, clock: Clock, steps: int
) -> None:
    tokens = [opened.token]
    for _ in range(steps):
        tokens.append(await rotate.successor(tokens[-1]))
    for token in tokens[:-1]:
        assert (await rotate.successor(token)).text == tokens[-1].text
    clock.now += GRACE + 1
    assert isinstance(await rotate(tokens[-1]), Rotated), "the session goes on with the token that was given out"


async def test_a_token_replaced_longer_ago_ends_its_session(
    users: Users, ann: UserRecord, opened: NewSession, rotate: Rotations, clock: Clock, database: Database
) -> None:
    successor = await rotate.successor(opened.token)
    clock.now += GRACE
    outcome = await rotate(opened.token)
    assert isinstance(outcome, Reused)
    assert outcome.record.ended_sessions == {opened.id} and outcome.record.version == ann.version + 1
    assert await users.user(ann.id) == outcome.record
    assert await rotate(successor) is None, "the thief and the owner cannot be told apart"
    again = await rotate(opened.token)
    assert again == outcome, "it is a replay still, and nothing changes any more"
    actions = await database.read(lambda connection: connection.execute(select(audit.c.action, audit.c.after)).all())
    assert list(actions[-1]) == ["sessions.ended", {"reason": "reuse", "sessions_ended": 1}]
    assert len(actions) == 2


async def test_a_token_of_long_ago_is_a_replay_too_though_nothing_is_kept_of_it(
    opened: NewSession, rotate: Rotations, clock: Clock, database: Database
) -> None:
    token = opened.token
    for _ in range(30):
        clock.now += GRACE + 1
        token = await rotate.successor(token)
    assert await count(database) == (1, 2)
    assert isinstance(await rotate(opened.token), Reused)


async def test_without_grace_the_second_use_is_a_replay(opened: NewSession, rotate: Rotations) -> None:
    assert isinstance(await rotate(opened.token, grace=0), Rotated)
    assert isinstance(await rotate(opened.token, grace=0), Reused)


async def test_a_token_that_was_never_issued_is_none(opened: NewSession, rotate: Rotations) -> None:
    assert await rotate(RefreshToken.new()) is None
    assert isinstance(await rotate(opened.token), Rotated), "and it ends no session"


async def test_a_session_that_is_used_goes_on_and_one_that_is_not_expires(
    opened: NewSession, rotate: Rotations, clock: Clock
) -> None:
    token = opened.token
    for _ in range(3):
        clock.now += 900
        token = await rotate.successor(token)
    clock.now += 1000
    assert await rotate(token) is None


@pytest.mark.parametrize("how", ["end", "end_all", "disable", "delete"])
async def test_a_refresh_token_stops_working(
    users: Users, sessions: Sessions, ann: UserRecord, opened: NewSession, rotate: Rotations, how: str
) -> None:
    match how:
        case "end":
            await sessions.end(ann.id, opened.id, reason="logout", by=Actor(ann.id))
        case "end_all":
            await sessions.end_all(ann.id, reason="logout-all", by=Actor(ann.id))
        case "disable":
            await users.change(ann.id, is_active=False, by=COMMAND_LINE, admin_roles=())
        case _:
            await users.delete(ann.id, by=COMMAND_LINE, admin_roles=())
    assert await rotate(opened.token) is None


async def test_a_user_who_is_enabled_again_can_continue(
    users: Users, ann: UserRecord, opened: NewSession, rotate: Rotations
) -> None:
    await users.change(ann.id, is_active=False, by=COMMAND_LINE, admin_roles=())
    await users.change(ann.id, is_active=True, by=COMMAND_LINE, admin_roles=())
    assert isinstance(await rotate(opened.token), Rotated)


async def test_where_a_session_was_last_used_from_is_kept(
    opened: NewSession, rotate: Rotations, clock: Clock, database: Database
) -> None:
    query = select(
        sessions_table.c.address, sessions_table.c.user_agent, sessions_table.c.created_at, sessions_table.c.used_at
    )
    began = clock.instant
    clock.now += 5
    await rotate.successor(opened.token)
    row = await database.read(lambda connection: connection.execute(query).one())
    assert tuple(row) == ("192.0.2.9", "later", began, clock.instant)


async def test_the_end_of_access_never_moves_back(
    sessions: Sessions, users: Users, ann: UserRecord, opened: NewSession, clock: Clock
) -> None:
    """A shorter `access_ttl` after a restart does not shorten issued tokens."""
    shorter = Rotation(opened.token, GRACE, opened.expires_at, clock.instant + timedelta(seconds=1), ClientInfo())
    assert isinstance(await sessions.rotate(shorter), Rotated)
    await sessions.end(ann.id, opened.id, reason="logout", by=Actor(ann.id))
    clock.now += 50
    record = await users.user(ann.id)
    assert record is not None and record.ended_sessions == {opened.id}


# ---- ending


async def test_ending_a_session_twice_changes_nothing_the_second_time(
    sessions: Sessions, ann: UserRecord, opened: NewSession
) -> None:
    once = await sessions.end(ann.id, opened.id, reason="logout", by=Actor(ann.id))
    assert once is not None and once.ended_sessions == {opened.id} and once.version == ann.version + 1
    assert await sessions.end(ann.id, opened.id, reason="logout", by=Actor(ann.id)) == once


async def test_a_user_cannot_end_the_session_of_another(
    sessions: Sessions, users: Users, ann: UserRecord, opened: NewSession
) -> None:
    bob = await create(users, "bob@example.com")
    assert await sessions.end(bob.id, opened.id, reason="logout", by=Actor(bob.id)) == bob
    assert await users.user(ann.id) == ann


async def test_sessions_of_a_missing_user_cannot_be_ended(sessions: Sessions) -> None:
    assert await sessions.end("nobody", "x", reason="logout", by=Actor("nobody")) is None
    assert await sessions.end_all("nobody", reason="logout-all", by=Actor("nobody")) is None


async def test_a_session_whose_access_tokens_expired_can_still_be_ended(
    sessions: Sessions, ann: UserRecord, opened: NewSession, rotate: Rotations, clock: Clock
) -> None:
    clock.now += 500
    ended = await sessions.end_all(ann.id, reason="logout-all", by=Actor(ann.id))
    assert ended is not None and ended.version == ann.version + 1
    assert await rotate(opened.token) is None


# ---- active sessions


async def test_the_living_sessions_are_listed_the_one_used_last_first(
    sessions: Sessions, users: Users, ann: UserRecord, clock: Clock, rotate: Rotations
) -> None:
    bob = await create(users, "bob@example.com")
    await sessions.open(bob.id, new_session(clock), verified="hash")
    several = [new_session(clock) for _ in range(4)]
    for session in several:
        clock.now += 1
        await sessions.open(ann.id, session, verified="hash")
    began = clock.instant - timedelta(seconds=3)
    clock.now += 1
    await rotate(several[0].token)
    await sessions.end(ann.id, several[2].id, reason="logout", by=Actor(ann.id))
    listed = await sessions.living(ann.id)
    assert [one.id for one in listed] == [several[0].id, several[3].id, several[1].id]
    expires = clock.instant + timedelta(seconds=1000)
    assert listed[0] == ActiveSession(several[0].id, "token", began, clock.instant, expires, "192.0.2.9", "later")
    assert await sessions.living("nobody") == ()


async def test_a_session_lives_for_as_long_as_anything_of_it_is_good(
    sessions: Sessions, ann: UserRecord, clock: Clock
) -> None:
    """A session that cannot be refreshed can still have a valid access token, and can still be ended."""
    short, long = new_session(clock, ttl=10, access=100), new_session(clock, ttl=200, access=100)
    for session in (short, long):
        await sessions.open(ann.id, session, verified="hash")
    clock.now += 50
    assert {one.id for one in await sessions.living(ann.id)} == {short.id, long.id}
    clock.now += 50
    assert {one.id for one in await sessions.living(ann.id)} == {long.id}
    assert await sessions.end_living(ann.id, short.id, reason="removed", by=Actor(ann.id)) is None
    clock.now += 100
    assert await sessions.living(ann.id) == ()


async def test_a_listed_session_is_ended_once_and_only_by_its_owner(
    sessions: Sessions, users: Users, ann: UserRecord, opened: NewSession, rotate: Rotations, database: Database
) -> None:
    bob = await create(users, "bob@example.com")
    assert await sessions.end_living(bob.id, opened.id, reason="removed", by=Actor(bob.id)) is None
    assert await users.user(ann.id) == ann
    record = await sessions.end_living(ann.id, opened.id, reason="removed", by=Actor(ann.id))
    assert record is not None and record.ended_sessions == {opened.id} and record.version == ann.version + 1
    assert await sessions.end_living(ann.id, opened.id, reason="removed", by=Actor(ann.id)) is None
    assert await users.user(ann.id) == record
    assert await rotate(opened.token) is None
    rows = await database.read(lambda c: c.execute(select(audit.c.after).where(audit.c.subject == ann.id)).all())
    assert [row.after for row in rows if "reason" in row.after] == [{"reason": "removed", "sessions_ended": 1}]


async def test_logins_refreshes_and_ends_at_once_neither_block_each_other_nor_lose_anything(
    sessions: Sessions, users: Users, ann: UserRecord, clock: Clock, rotate: Rotations
) -> None:
    several = [new_session(clock) for _ in range(8)]
    for session in several:
        await sessions.open(ann.id, session, verified="hash")
    works = [rotate(session.token) for session in several[:4]]
    ends = [sessions.end(ann.id, session.id, reason="logout", by=Actor(ann.id)) for session in several[4:]]
    more = [sessions.open(ann.id, new_session(clock), verified="hash") for _ in range(4)]
    outcomes = await asyncio.gather(*works, *ends, *more)
    assert all(isinstance(outcome, Rotated) for outcome in outcomes[:4])
    record = await users.user(ann.id)
    assert record is not None and record.ended_sessions == {session.id for session in several[4:]}
    assert record.version == ann.version + 4


async def test_expired_sessions_are_deleted_at_any_sign_in(
    sessions: Sessions, ann: UserRecord, clock: Clock, database: Database
) -> None:
    """A session stays while an access token of it can be valid, and so does an open one."""
    over, open_one = new_session(clock), new_session(clock)
    for session in (over, open_one):
        assert await sessions.open(ann.id, session, verified="hash")
    await sessions.end(ann.id, over.id, reason="logout", by=Actor(ann.id))
    assert await sessions.delete_old() == 0
    clock.now += (over.access_until - clock.instant).total_seconds()
    assert await sessions.delete_old() == 1
    assert [each.id for each in await sessions.living(ann.id)] == [open_one.id]
    clock.now += (open_one.expires_at - clock.instant).total_seconds()
    assert (await sessions.delete_old(), await sessions.delete_old()) == (1, 0)
    assert await count(database) == (0, 0)
