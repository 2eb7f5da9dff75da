"""Sessions of browsers in the database, on SQLite and PostgreSQL, and the verification of their cookies."""

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, select

from gateway.accounts.store import CookieRenewal, NewBrowserSession, PasswordEffects
from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.session_cookie import cookie_digest, new_cookie
from gateway.identity.session_verifier import SessionLimits, SessionVerifier
from gateway.identity.user import COMMAND_LINE, Actor, Claims, ClientInfo, UserRecord
from gateway.settings.model import TokensSettings
from gateway.storage.browser_sessions import StoredBrowserSessions
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.tables import audit
from gateway.storage.tables import sessions as rows
from gateway.storage.users import Users
from tests.support.databases import Clock, new_session

IDLE, LIFETIME, TTL = 400.0, 2000.0, 60.0
KEYS = KeyRing([SigningKey.from_secret("0123456789abcdef" * 2, "HS256", "k1")])


class Cookies:
    """Begins sessions, and verifies their cookies as `replicas` processes do."""

    def __init__(self, database: Database, clock: Clock, owner: UserRecord) -> None:
        self.store = StoredBrowserSessions(database, clock=clock)
        self.clock = clock
        self.owner = owner
        self.replicas = [self.replica(), self.replica()]

    def replica(self) -> SessionVerifier:
        tokens = Tokens(KEYS, TokensSettings(), clock=self.clock)
        return SessionVerifier(self.store, tokens, SessionLimits(IDLE, TTL, 1000))

    async def begin(self, *, remember: bool = False, most: int = 50, verified: str = "hash") -> bytes | None:
        cookie = new_cookie().encode()
        expires_at = self.clock.instant + timedelta(seconds=LIFETIME)
        new = NewBrowserSession(secrets.token_urlsafe(16), digest_of(cookie), expires_at, remember, ClientInfo("::1"))
        began = await self.store.begin(self.owner.id, new, most=most, verified=verified)
        return None if began is None else cookie

    async def open(self, *, remember: bool = False, most: int = 50) -> bytes:
        cookie = await self.begin(remember=remember, most=most)
        assert cookie is not None
        return cookie

    async def renew(self, claims: Claims, cookie: bytes, *, grace: float = 10.0) -> bytes:
        following = new_cookie().encode()
        renewal = CookieRenewal(digest_of(cookie), digest_of(following), grace)
        assert await self.store.renew(self.owner.id, claims.session, renewal)
        return following

    async def refused(self, cookie: bytes, replica: int = 0) -> str:
        with pytest.raises(Refusal) as refusal:
            await self.replicas[replica].ask(cookie)
        assert not refusal.value.presented, "no challenge of a bearer token fits a cookie"
        return refusal.value.code

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()


def digest_of(cookie: bytes) -> bytes:
    digest = cookie_digest(cookie)
    assert digest is not None
    return digest


@pytest.fixture
async def cookies(database: Database, clock: Clock, ann: UserRecord) -> Cookies:
    return Cookies(database, clock, ann)


async def test_a_cookie_is_looked_up_once_and_then_known_for_a_while(cookies: Cookies, clock: Clock) -> None:
    cookie = await cookies.open()
    verifier = cookies.replicas[0]
    assert verifier.known(cookie) is None
    claims = await verifier.ask(cookie)
    assert (claims.kind, claims.subject, claims.auth_time) == ("session", cookies.owner.id, clock.now)
    assert (claims.acr, claims.amr, claims.record_version) == ("aal1", ("pwd",), 1)
    clock.now += TTL - 1
    assert verifier.known(cookie) == claims
    clock.now += 1
    assert verifier.known(cookie) is None
    await cookies.close()


async def test_nothing_begins_after_another_change_of_the_account(cookies: Cookies, users: Users) -> None:
    assert await cookies.begin(verified="another hash") is None
    await users.change(cookies.owner.id, is_active=False, by=COMMAND_LINE, admin_roles=())
    assert await cookies.begin() is None


async def test_an_unused_session_ends_and_a_used_one_lasts_to_the_end_of_its_lifetime(
    cookies: Cookies, sessions: Sessions, database: Database, clock: Clock
) -> None:
    unused, used, remembered = await cookies.open(), await cookies.open(), await cookies.open(remember=True)
    listing = Sessions(database, clock=clock, idle=IDLE)
    began, verifier = clock.now, cookies.replicas[0]
    while clock.now < began + LIFETIME - 100:
        clock.now += 90
        assert (verifier.known(used) or await verifier.ask(used)).kind == "session"
        await verifier.close()  # writes the uses
    assert await cookies.refused(unused) == "token_expired"
    assert await cookies.refused(unused, replica=1) == "token_expired"
    for cookie in (used, remembered):
        assert (await cookies.replicas[1].ask(cookie)).kind == "session", "another replica knows of the uses"
    assert len(await listing.living(cookies.owner.id)) == 2
    clock.now = began + LIFETIME
    for cookie in (used, remembered):
        assert await cookies.refused(cookie) == "token_expired"
        assert verifier.known(cookie) is None
    await cookies.close()


async def test_a_copy_does_not_outlive_the_idle_limit(cookies: Cookies, clock: Clock) -> None:
    cookie = await cookies.open()
    clock.now += IDLE - 10
    verifier = SessionVerifier(cookies.store, Tokens(KEYS, TokensSettings(), clock=clock), SessionLimits(IDLE, 1e6, 10))
    await verifier.ask(cookie)
    await verifier.close()
    clock.now += IDLE / 4 + 1
    assert verifier.known(cookie) is None, "the store can know of the use that has just been written"
    assert await verifier.ask(cookie)
    clock.now += IDLE
    with pytest.raises(Refusal):
        await verifier.ask(cookie)
    await verifier.close()


async def test_use_is_written_at_most_once_in_a_while(
    cookies: Cookies, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    note_uses = cookies.store.note_uses

    async def counted(uses: object) -> None:
        written.append(uses)
        await note_uses(uses)  # type: ignore[arg-type]

    monkeypatch.setattr(cookies.store, "note_uses", counted)
    verifier = cookies.replica()
    cookie = await cookies.open()
    for second in range(180):
        clock.now += 1
        claims = verifier.known(cookie) or await verifier.ask(cookie)
        if second % 20 == 0:
            await verifier.close()
    await verifier.close()
    assert len(written) == 3, "once a minute, because a quarter of the idle limit is longer"
    found = await cookies.store.session(claims.session)
    assert found is not None and clock.instant - found.used_at <= timedelta(seconds=60)


async def test_the_oldest_sessions_end_beyond_the_limit(
    cookies: Cookies, sessions: Sessions, clock: Clock, users: Users
) -> None:
    await sessions.open(cookies.owner.id, new_session(clock), verified="hash")  # tokens do not count
    opened = []
    for _ in range(4):
        clock.now += 1
        opened.append(await cookies.open(most=3))
    assert await cookies.refused(opened[0]) == "token_revoked"
    for cookie in opened[1:]:
        assert await cookies.replicas[0].ask(cookie)
    record = await users.user(cookies.owner.id)
    assert record is not None and (record.version, len(record.ended_sessions)) == (2, 1)


async def test_a_renewed_cookie_is_good_for_the_grace_with_its_own_age(
    cookies: Cookies, users: Users, clock: Clock
) -> None:
    first = await cookies.open()
    began = clock.now
    claims = await cookies.replicas[0].ask(first)
    clock.now += 30
    second = await cookies.renew(claims, first)
    record = await users.user(cookies.owner.id)
    assert record is not None and record.version > claims.record_version, "which tells the replicas"
    before, after = await cookies.replicas[1].ask(first), await cookies.replicas[1].ask(second)
    assert (before.auth_time, after.auth_time) == (began, began + 30)
    assert before.session == after.session == claims.session
    clock.now += 9.9
    assert cookies.replicas[1].known(first) == before
    clock.now += 0.2
    assert cookies.replicas[1].known(first) is None
    assert await cookies.refused(first, replica=1) == "token_invalid"
    assert await cookies.replicas[0].ask(second)
    third = await cookies.renew(claims, second)
    assert await cookies.replicas[0].ask(second)
    assert await cookies.refused(first) == "token_invalid", "only one cookie before the current one is kept"
    assert await cookies.replicas[0].ask(third)


async def test_the_same_renewal_twice_is_one_and_another_of_the_same_cookie_is_refused(cookies: Cookies) -> None:
    first = await cookies.open()
    claims = await cookies.replicas[0].ask(first)
    renewal = CookieRenewal(digest_of(first), digest_of(new_cookie().encode()), 10.0)
    for _ in range(2):
        assert await cookies.store.renew(cookies.owner.id, claims.session, renewal)
    other = replace(renewal, digest=digest_of(new_cookie().encode()))
    assert await cookies.store.renew(cookies.owner.id, claims.session, other) is None


async def test_a_new_password_renews_the_own_cookie_and_ends_the_other_sessions(
    cookies: Cookies, users: Users, clock: Clock
) -> None:
    own, other = await cookies.open(), await cookies.open()
    claims = await cookies.replicas[0].ask(own)
    following = new_cookie().encode()
    effects = PasswordEffects(claims.session, CookieRenewal(digest_of(own), digest_of(following), 10.0))
    assert await users.set_password(cookies.owner.id, "new", by=Actor(cookies.owner.id), effects=effects)
    assert await cookies.refused(other) == "token_revoked"
    for cookie in (own, following):
        assert (await cookies.replicas[0].ask(cookie)).session == claims.session


@pytest.mark.parametrize("copies_last", [60.0, 500.0])
async def test_the_record_lists_an_ended_session_as_long_as_a_copy_can_exist(
    database: Database, cookies: Cookies, users: Users, clock: Clock, copies_last: float
) -> None:
    claims = await cookies.replicas[0].ask(await cookies.open(remember=True))
    ending = Sessions(database, clock=clock, copies_last=copies_last)
    record = await ending.end(cookies.owner.id, claims.session, reason="logout", by=Actor(cookies.owner.id))
    assert record is not None and record.ended_sessions == {claims.session}
    clock.now += copies_last
    later = await users.user(cookies.owner.id)
    assert later is not None and later.ended_sessions == frozenset()
    await cookies.open()
    ids = await database.read(lambda c: c.execute(select(rows.c.id)).scalars().all())
    assert claims.session not in ids, "its row is deleted at the next sign-in"


async def test_a_stream_asks_whether_its_session_lasts(cookies: Cookies, sessions: Sessions, clock: Clock) -> None:
    verifier = cookies.replicas[0]
    claims = await verifier.ask(await cookies.open())
    assert not verifier.lasts(claims)
    await verifier.confirm(claims)
    assert verifier.lasts(claims)
    clock.now += TTL
    assert not verifier.lasts(claims)
    clock.now += IDLE
    with pytest.raises(Refusal, match="token_expired"):
        await verifier.confirm(claims)


async def test_a_crowd_with_one_cookie_asks_the_store_once(cookies: Cookies, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, asked = await cookies.open(), []
    known = cookies.store.known

    async def counted(digests: object) -> object:
        asked.append(digests)
        return await known(digests)  # type: ignore[arg-type]

    monkeypatch.setattr(cookies.store, "known", counted)
    verifier = cookies.replica()
    found = await asyncio.gather(*(verifier.ask(cookie) for _ in range(100)))
    assert len(set(found)) == 1 and len(asked) == 1
    await verifier.close()


async def test_a_sign_in_is_written_to_the_audit_trail_without_the_cookie(cookies: Cookies, database: Database) -> None:
    cookie = await cookies.open()

    def records(connection: Connection) -> list[tuple[object, ...]]:
        return [tuple(row) for row in connection.execute(select(audit.c.action, audit.c.subject, audit.c.after))]

    found = [record for record in await database.read(records) if record[0] == "session.began"]
    assert [record[1] for record in found] == [cookies.owner.id]
    assert cookie.decode() not in str(found) and digest_of(cookie).hex() not in str(found)


async def test_an_earlier_use_of_another_replica_does_not_replace_a_later_one(cookies: Cookies, clock: Clock) -> None:
    claims = await cookies.replicas[0].ask(await cookies.open())
    earlier = clock.instant - timedelta(seconds=100)
    await cookies.store.note_uses({claims.session: earlier, "unknown": earlier})
    found = await cookies.store.session(claims.session)
    assert found is not None and found.used_at == clock.instant, "a later use stays"
