"""API keys in the database, on SQLite and PostgreSQL."""

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from gateway.accounts.store import NewSession
from gateway.errors import Refusal
from gateway.identity.api_keys import MAX_KEYS, ApiKey, KnownKey, NewApiKey, key_digest, new_key
from gateway.identity.user import COMMAND_LINE, Actor, UserRecord
from gateway.storage.api_keys import ApiKeys
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.tables import api_keys, audit
from gateway.storage.users import Users
from tests.support.databases import Clock, create, new_session

ROLES = frozenset(("user", "auditor"))
REMEMBERED = timedelta(seconds=120)


@pytest.fixture
def keys(database: Database, clock: Clock) -> ApiKeys:
    return ApiKeys(database, clock=clock)


@pytest.fixture
async def session(sessions: Sessions, ann: UserRecord, clock: Clock) -> NewSession:
    opened = new_session(clock)
    await sessions.open(ann.id, opened, verified="hash")
    return opened


@pytest.fixture
def new(ann: UserRecord, session: NewSession) -> NewApiKey:
    """A key of Ann's that is not stored yet."""
    return another(NewApiKey("", ann.id, session.id, b"", "ci", ROLES, None))


def another(key: NewApiKey, lasts: timedelta | None = None, clock: Clock | None = None) -> NewApiKey:
    digest = key_digest(new_key().encode())
    assert digest is not None
    expires_at = clock.instant + lasts if clock is not None and lasts is not None else None
    return replace(key, id=secrets.token_urlsafe(16), digest=digest, expires_at=expires_at)


def by(user: UserRecord) -> Actor:
    return Actor(user.id)


async def end(keys: ApiKeys, user: UserRecord, key_id: str, clock: Clock) -> UserRecord | None:
    return await keys.end(user.id, key_id, known_until=clock.instant + REMEMBERED, by=by(user))


async def rows(database: Database) -> int:
    query = select(func.count()).select_from(api_keys)
    return await database.read(lambda connection: connection.execute(query).scalar_one())


# ---- creating


async def test_a_key_is_listed_and_found_by_its_digest(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, users: Users, clock: Clock
) -> None:
    made = await keys.create(new, by=by(ann))
    assert made == ApiKey(new.id, "ci", ROLES, clock.instant, None, None)
    assert await keys.living(ann.id) == (made,)
    other = secrets.token_bytes(32)
    assert await keys.known([new.digest, other]) == {new.digest: KnownKey(new.id, ann.id, ROLES, None, False)}
    assert await users.user(ann.id) == ann, "the record has not changed, so no replica needs a message"


async def test_the_newest_key_comes_first_and_others_see_none_of_it(
    keys: ApiKeys, users: Users, ann: UserRecord, new: NewApiKey, clock: Clock
) -> None:
    made = []
    for _ in range(3):
        clock.now += 1
        made.append(await keys.create(another(new), by=by(ann)))
    assert list(await keys.living(ann.id)) == made[::-1]
    bob = await create(users, "bob@example.com")
    assert await keys.living(bob.id) == ()


async def test_the_audit_trail_names_a_key_and_contains_no_secret(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, database: Database, clock: Clock
) -> None:
    key = replace(new, expires_at=clock.instant)
    await keys.create(key, by=by(ann))
    await keys.create(new_one := another(new), by=by(ann))
    await end(keys, ann, new_one.id, clock)
    found = await database.read(lambda c: c.execute(select(audit.c.action, audit.c.before, audit.c.after)).all())
    entries = [tuple(row) for row in found if row.action.startswith("api_key")]
    expires_at = clock.instant.isoformat()
    assert entries == [
        (
            "api_key.created",
            None,
            {"id": key.id, "name": "ci", "roles": ["auditor", "user"], "expires_at": expires_at},
        ),
        (
            "api_key.created",
            None,
            {"id": new_one.id, "name": "ci", "roles": ["auditor", "user"], "expires_at": None},
        ),
        ("api_key.deleted", {"id": new_one.id}, None),
    ]
    assert key.digest.hex() not in repr(found) and repr(key.digest) not in repr(found)


@pytest.mark.parametrize("how", ["logout", "disable", "delete"])
async def test_a_user_disabled_during_the_request_gets_no_key(
    keys: ApiKeys, users: Users, sessions: Sessions, ann: UserRecord, new: NewApiKey, database: Database, how: str
) -> None:
    """The request was admitted before the session ended: a thief must not gain a key."""
    match how:
        case "logout":
            await sessions.end(ann.id, new.session_id, reason="logout", by=by(ann))
        case "disable":
            await users.change(ann.id, is_active=False, by=COMMAND_LINE, admin_roles=())
        case _:
            await users.delete(ann.id, by=COMMAND_LINE, admin_roles=())
    assert await keys.create(new, by=by(ann)) is None
    assert await rows(database) == 0


async def test_a_session_makes_keys_only_for_its_user(
    keys: ApiKeys, users: Users, new: NewApiKey, ann: UserRecord
) -> None:
    bob = await create(users, "bob@example.com")
    assert await keys.create(replace(new, user_id=bob.id), by=by(bob)) is None


async def test_an_account_has_so_many_keys_and_no_more_however_fast_they_are_made_and_deleted(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, users: Users, clock: Clock, database: Database
) -> None:
    made = [await keys.create(another(new), by=by(ann)) for _ in range(MAX_KEYS)]
    with pytest.raises(Refusal, match="too_many_api_keys"):
        await keys.create(new, by=by(ann))
    assert made[0] is not None
    await end(keys, ann, made[0].id, clock)
    with pytest.raises(Refusal, match="too_many_api_keys"):
        await keys.create(new, by=by(ann))
    assert await rows(database) == MAX_KEYS
    clock.now += REMEMBERED.total_seconds()
    assert await keys.create(new, by=by(ann))
    record = await users.user(ann.id)
    assert record is not None and record.ended_sessions == frozenset()


async def test_of_many_made_at_once_no_more_come_through(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, database: Database
) -> None:
    for _ in range(MAX_KEYS - 2):
        await keys.create(another(new), by=by(ann))
    outcomes = await asyncio.gather(*(keys.create(another(new), by=by(ann)) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(outcome, ApiKey) for outcome in outcomes) == 2
    assert await rows(database) == MAX_KEYS


# ---- ending


async def test_a_deleted_key_stays_in_the_record_while_a_copy_can_exist(
    keys: ApiKeys, users: Users, ann: UserRecord, new: NewApiKey, clock: Clock
) -> None:
    await keys.create(new, by=by(ann))
    record = await end(keys, ann, new.id, clock)
    assert record is not None and record == await users.user(ann.id)
    assert (record.ended_sessions, record.version) == (frozenset({new.id}), ann.version + 1)
    assert await keys.living(ann.id) == ()
    assert (await keys.known([new.digest]))[new.digest].has_ended
    assert await end(keys, ann, new.id, clock) is None, "once is enough"
    clock.now += REMEMBERED.total_seconds()
    record = await users.user(ann.id)
    assert record is not None and record.ended_sessions == frozenset()
    assert (await keys.known([new.digest]))[new.digest].has_ended, "it does not come back"


async def test_ended_keys_and_ended_sessions_stand_side_by_side(
    keys: ApiKeys, sessions: Sessions, ann: UserRecord, new: NewApiKey, clock: Clock
) -> None:
    other = another(new)
    for key in (new, other):
        await keys.create(key, by=by(ann))
    await end(keys, ann, new.id, clock)
    await end(keys, ann, other.id, clock)
    record = await sessions.end(ann.id, new.session_id, reason="logout", by=by(ann))
    assert record is not None and record.ended_sessions == {new.id, other.id, new.session_id}


async def test_a_user_cannot_delete_the_key_of_another(
    keys: ApiKeys, users: Users, ann: UserRecord, new: NewApiKey, clock: Clock
) -> None:
    await keys.create(new, by=by(ann))
    bob = await create(users, "bob@example.com")
    assert await end(keys, bob, new.id, clock) is None
    assert await end(keys, ann, "unknown", clock) is None
    assert await keys.end("nobody", new.id, known_until=clock.instant, by=by(ann)) is None
    assert len(await keys.living(ann.id)) == 1


async def test_an_expired_key_is_not_shown_and_forgotten_when_the_next_is_made(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, clock: Clock, database: Database
) -> None:
    brief = another(new, timedelta(seconds=60), clock)
    made = await keys.create(brief, by=by(ann))
    assert made is not None and made.expires_at == clock.instant + timedelta(seconds=60)
    clock.now += 60
    assert await keys.living(ann.id) == ()
    assert await end(keys, ann, brief.id, clock) is None
    assert (await keys.known([brief.digest]))[brief.digest].expires_at == clock.instant
    await keys.create(new, by=by(ann))
    assert await rows(database) == 1


async def test_keys_go_with_their_owner(
    keys: ApiKeys, users: Users, ann: UserRecord, new: NewApiKey, database: Database
) -> None:
    await keys.create(new, by=by(ann))
    await users.delete(ann.id, by=COMMAND_LINE, admin_roles=())
    assert await keys.known([new.digest]) == {}
    assert await rows(database) == 0


async def test_ending_sessions_keeps_api_keys_unless_requested(
    keys: ApiKeys, users: Users, sessions: Sessions, ann: UserRecord, new: NewApiKey, clock: Clock, database: Database
) -> None:
    await keys.create(new, by=by(ann))
    await sessions.end_all(ann.id, reason="logout-all", by=by(ann))
    await users.set_password(ann.id, "new", by=by(ann))
    assert len(await keys.living(ann.id)) == 1
    record = await sessions.end_all(
        ann.id, reason="revoked", by=COMMAND_LINE, keys_known_until=clock.instant + REMEMBERED
    )
    assert record is not None and new.id in record.ended_sessions and record == await users.user(ann.id)
    assert await keys.living(ann.id) == ()
    last = await database.read(lambda c: c.execute(select(audit.c.after).order_by(audit.c.id.desc())).scalars().first())
    assert last == {"reason": "revoked", "sessions_ended": 0, "api_keys_ended": 1}
    again = await sessions.end_all(
        ann.id, reason="revoked", by=COMMAND_LINE, keys_known_until=clock.instant + REMEMBERED
    )
    assert again == record, "nothing was left to end"


# ---- uses


async def test_a_use_is_written_down_once_a_minute(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, clock: Clock, users: Users
) -> None:
    other = another(new)
    for key in (new, other):
        await keys.create(key, by=by(ann))
    first = clock.instant
    await keys.note_uses({new.id: first, "unknown": first})
    for seconds, seen in ((30, first), (59, first), (61, first + timedelta(seconds=61))):
        await keys.note_uses({new.id: first + timedelta(seconds=seconds)})
        used = {key.id: key.last_used_at for key in await keys.living(ann.id)}
        assert used == {new.id: seen, other.id: None}
    assert await users.user(ann.id) == ann, "a use changes no record"


async def test_replicas_that_write_uses_at_once_do_not_wait_for_each_other(
    keys: ApiKeys, ann: UserRecord, new: NewApiKey, clock: Clock
) -> None:
    several = [another(new) for _ in range(10)]
    for key in several:
        await keys.create(key, by=by(ann))
    forward = {key.id: clock.instant for key in several}
    backward = dict(reversed(forward.items()))
    await asyncio.gather(*(keys.note_uses(uses) for uses in (forward, backward) * 5), end(keys, ann, new.id, clock))
    assert {key.last_used_at for key in await keys.living(ann.id)} == {clock.instant}
