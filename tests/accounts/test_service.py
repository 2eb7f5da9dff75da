"""The account service, on both databases."""

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.emails import email_address
from gateway.accounts.password_threads import PasswordThreads
from gateway.accounts.passwords import Password, PasswordPool, presented_password
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.refresh_token import RefreshToken
from gateway.identity.user import COMMAND_LINE, Claims
from gateway.storage.circuit_breaker import Breaker
from gateway.storage.database import COMMAND, Database
from tests.accounts.harness import ORIGIN, PASSWORD, Harness, make_harness, make_settings
from tests.support.databases import Clock, opened
from tests.support.waiting import until

ANN = email_address("ann@example.com")
WRONG = Password(b"not the password")


async def refused(work: object) -> str:
    with pytest.raises(Refusal) as raised:
        await work  # type: ignore[misc]
    return raised.value.code


# ---- registering


async def test_registration_signs_the_user_in(harness: Harness, clock: Clock) -> None:
    pair = await harness.register(" Ann@Example.com ")
    claims = harness.claims(pair)
    record = await harness.record(pair)
    assert (record.email, record.roles, record.is_active) == ("Ann@Example.com", frozenset({"user"}), True)
    assert (record.version, record.created_at) == (1, clock.instant)
    assert claims.subject == record.id and claims.session
    assert (pair.expires_in, pair.refresh_token.text[:4]) == (900, "gwr_")
    assert harness.feed.announced == [(record.id, record)]


async def test_of_fifty_registrations_of_one_address_at_once_one_succeeds(harness: Harness) -> None:
    spellings = ["ann@example.com", "ANN@example.com", "Ann@EXAMPLE.COM", " ann@example.com", "ａnn@example.com"]

    async def attempt(number: int) -> str:
        try:
            await harness.register(spellings[number % len(spellings)])
        except Refusal as refusal:
            return refusal.code
        return "registered"

    outcomes = await asyncio.gather(*(attempt(number) for number in range(50)))
    assert sorted(outcomes) == ["email_taken"] * 49 + ["registered"]
    assert len(harness.feed.announced) == 1


async def test_closed_registration_refuses_every_account(database: Database, clock: Clock) -> None:
    harness = make_harness(database, clock, make_settings(registration="closed"))
    assert await refused(harness.register()) == "registration_closed"
    assert harness.feed.announced == []
    harness.close()


async def test_a_full_password_queue_is_overload(database: Database, clock: Clock) -> None:
    threads, release = PasswordThreads(1, queue=0), threading.Event()
    harness = make_harness(database, clock, passwords=PasswordPool(rounds=4, threads=threads))
    running = asyncio.ensure_future(threads.run(partial(release.wait, 10)))
    await asyncio.sleep(0)
    assert await refused(harness.register()) == "overloaded"
    assert await refused(harness.login()) == "overloaded"
    release.set()
    assert await running
    harness.close()


# ---- logging in


async def test_every_login_is_a_session_of_its_own(harness: Harness) -> None:
    pairs = [await harness.register(), await harness.login(), await harness.login(" ANN@example.com")]
    claims = [harness.claims(pair) for pair in pairs]
    assert len({one.subject for one in claims}) == 1
    assert len({one.session for one in claims}) == len({one.token_id for one in claims}) == 3


async def test_unknown_users_and_wrong_passwords_get_equal_responses(harness: Harness) -> None:
    await harness.register()
    refusals = []
    for email, password in (
        (ANN, WRONG),
        (email_address("bob@example.com"), WRONG),
        (ANN, presented_password("x" * 80)),
    ):
        with pytest.raises(Refusal) as raised:
            await harness.accounts.login(email, password, ORIGIN)
        refusals.append((raised.value.code, raised.value.status, raised.value.detail, raised.value.presented))
    assert set(refusals) == {("invalid_credentials", 401, "Invalid email or password", False)}


async def test_a_password_that_differs_only_beyond_72_bytes_is_wrong(harness: Harness) -> None:
    await harness.register(password="a" * 72)
    assert (
        await refused(harness.accounts.login(ANN, presented_password("a" * 72 + "X"), ORIGIN)) == "invalid_credentials"
    )
    assert await harness.login(password="a" * 72)


async def test_a_disabled_account_is_reported_only_after_the_right_password(harness: Harness) -> None:
    await harness.register()
    await harness.administration.disable("ann@example.com")
    assert await refused(harness.accounts.login(ANN, WRONG, ORIGIN)) == "invalid_credentials"
    assert await refused(harness.login()) == "account_disabled"


async def test_a_hash_of_another_cost_is_replaced_at_login(harness: Harness, database: Database, clock: Clock) -> None:
    await harness.register()
    stronger = make_harness(database, clock, passwords=PasswordPool(rounds=5))
    pairs = await asyncio.gather(*(stronger.login() for _ in range(4)))
    credentials = await harness.users.credentials("ann@example.com")
    assert credentials is not None and (credentials.password_hash or "").startswith("$2b$05$")
    assert (await harness.record(pairs[0])).version == 1, "the record has not changed"
    assert await harness.login(), "and the password is still the same"
    stronger.close()


async def test_a_login_that_a_password_change_overtakes_does_not_survive_it(
    harness: Harness, database: Database, clock: Clock
) -> None:
    """The old password was correct when it was checked, but not when the session would begin."""
    pair = await harness.register()
    user_id = harness.claims(pair).subject

    class Overtaken(PasswordPool):
        async def matches(self, password: Password | None, stored: str | None, **more: Any) -> bool:
            right = await super().matches(password, stored, **more)
            await harness.users.set_password(user_id, await self.hash(Password(b"a new password")), by=COMMAND_LINE)
            return right

    overtaken = make_harness(database, clock, passwords=Overtaken(rounds=4, threads=PasswordThreads(1)))
    assert await refused(overtaken.login()) == "invalid_credentials"
    assert (await harness.record(pair)).ended_sessions == {harness.claims(pair).session}
    overtaken.close()


async def test_an_account_that_changes_all_the_time_is_not_signed_in(
    harness: Harness, database: Database, clock: Clock
) -> None:
    pair = await harness.register()
    user_id = harness.claims(pair).subject

    class Restless(PasswordPool):
        async def matches(self, password: Password | None, stored: str | None, **more: Any) -> bool:
            right = await super().matches(password, stored, **more)
            await harness.users.set_password(user_id, await self.hash(Password(PASSWORD.encode())), by=COMMAND_LINE)
            return right

    restless = make_harness(database, clock, passwords=Restless(rounds=4, threads=PasswordThreads(1)))
    assert await refused(restless.login()) == "invalid_credentials"
    restless.close()


# ---- refreshing


async def test_a_refresh_gives_new_tokens_of_the_same_session(harness: Harness, clock: Clock) -> None:
    pair = await harness.register()
    before = harness.claims(pair)
    clock.now += 1000
    later = await harness.accounts.refresh(pair.refresh_token, ORIGIN)
    after = harness.claims(later)
    assert (before.subject, before.session) == (after.subject, after.session)
    assert later.refresh_token.text != pair.refresh_token.text and before.token_id != after.token_id
    assert len(harness.feed.announced) == 1, "a refresh changes no record"


async def test_twenty_refreshes_at_once_give_the_same_successor(harness: Harness) -> None:
    pair = await harness.register()
    pairs = await asyncio.gather(*(harness.accounts.refresh(pair.refresh_token, ORIGIN) for _ in range(20)))
    assert len({one.refresh_token.text for one in pairs}) == 1


async def test_a_replayed_refresh_token_ends_the_session_everywhere(harness: Harness, clock: Clock) -> None:
    pair = await harness.register()
    later = await harness.accounts.refresh(pair.refresh_token, ORIGIN)
    clock.now += 10
    for _ in range(2):
        assert await refused(harness.accounts.refresh(pair.refresh_token, ORIGIN)) == "refresh_reused"
    record = await harness.record(later)
    assert record.ended_sessions == {harness.claims(later).session}
    assert harness.feed.announced[-1] == (record.id, record)
    assert await refused(harness.accounts.refresh(later.refresh_token, ORIGIN)) == "refresh_invalid"


async def test_a_text_that_is_no_refresh_token_is_invalid(harness: Harness) -> None:
    assert await refused(harness.accounts.refresh(None, ORIGIN)) == "refresh_invalid"
    assert await refused(harness.accounts.refresh(RefreshToken.new(), ORIGIN)) == "refresh_invalid"


async def test_a_refresh_token_ends_after_its_time(harness: Harness, clock: Clock) -> None:
    pair = await harness.register()
    clock.now += harness.settings.tokens.refresh_ttl
    assert await refused(harness.accounts.refresh(pair.refresh_token, ORIGIN)) == "refresh_invalid"


# ---- logging out


async def test_logging_out_ends_this_session_and_no_other(harness: Harness) -> None:
    one, other = await harness.register(), await harness.login()
    await harness.accounts.logout(harness.claims(one), ORIGIN)
    record = await harness.record(one)
    assert record.ended_sessions == {harness.claims(one).session}
    assert harness.feed.announced[-1] == (record.id, record)
    assert await refused(harness.accounts.refresh(one.refresh_token, ORIGIN)) == "refresh_invalid"
    assert await harness.accounts.refresh(other.refresh_token, ORIGIN)


async def test_logging_out_everywhere_ends_every_session(harness: Harness) -> None:
    pairs = [await harness.register(), await harness.login(), await harness.login()]
    await harness.accounts.logout_all(harness.claims(pairs[1]), ORIGIN)
    assert (await harness.record(pairs[0])).ended_sessions == {harness.claims(pair).session for pair in pairs}
    for pair in pairs:
        assert await refused(harness.accounts.refresh(pair.refresh_token, ORIGIN)) == "refresh_invalid"


async def test_an_ended_session_is_remembered_for_longer_than_its_last_token_is_accepted(
    harness: Harness, clock: Clock
) -> None:
    pair = await harness.register()
    clock.now += 500
    later = await harness.accounts.refresh(pair.refresh_token, ORIGIN)
    await harness.accounts.logout(harness.claims(later), ORIGIN)
    clock.now += later.expires_in + harness.settings.tokens.leeway + 30
    record = await harness.users.user(harness.feed.announced[0][0])
    assert record is not None and len(record.ended_sessions) == 1
    clock.now += 60
    record = await harness.users.user(harness.feed.announced[0][0])
    assert record is not None and record.ended_sessions == frozenset()


# ---- changing the password


async def test_a_new_password_replaces_the_old_one_and_ends_the_other_sessions(harness: Harness) -> None:
    here, elsewhere = await harness.register(), await harness.login()
    new = Password(b"a new password")
    await harness.accounts.change_password(harness.claims(here), Password(PASSWORD.encode()), new, origin=ORIGIN)
    record = await harness.record(here)
    assert record.ended_sessions == {harness.claims(elsewhere).session}
    assert harness.feed.announced[-1] == (record.id, record)
    assert await refused(harness.login()) == "invalid_credentials"
    assert await harness.login(password="a new password")
    assert await harness.accounts.refresh(here.refresh_token, ORIGIN)


@pytest.mark.parametrize("current", [WRONG, None])
async def test_a_wrong_current_password_changes_nothing(harness: Harness, current: Password | None) -> None:
    pair = await harness.register()
    with pytest.raises(Refusal) as raised:
        await harness.accounts.change_password(harness.claims(pair), current, Password(b"new"), origin=ORIGIN)
    assert (raised.value.code, raised.value.status) == ("invalid_credentials", 401)
    assert raised.value.detail == "The current password is not correct"
    assert await harness.login()


async def test_of_two_password_changes_at_once_one_is_made(harness: Harness) -> None:
    claims = harness.claims(await harness.register())
    current = Password(PASSWORD.encode())

    async def attempt(new: bytes) -> str:
        try:
            await harness.accounts.change_password(claims, current, Password(new), origin=ORIGIN)
        except Refusal as refusal:
            return refusal.code
        return "changed"

    outcomes = await asyncio.gather(attempt(b"one password"), attempt(b"another password"))
    assert sorted(outcomes) == ["changed", "invalid_credentials"]


async def test_a_user_deleted_during_the_request_changes_nothing(harness: Harness) -> None:
    claims = harness.claims(await harness.register())
    await harness.administration.delete("ann@example.com")
    changing = harness.accounts.change_password(claims, Password(PASSWORD.encode()), Password(b"new"), origin=ORIGIN)
    assert await refused(changing) == "invalid_credentials"
    announced = list(harness.feed.announced)
    await harness.accounts.logout(claims, ORIGIN)
    await harness.accounts.logout_all(claims, ORIGIN)
    assert harness.feed.announced == announced


async def test_a_user_of_another_issuer_has_neither_password_nor_sessions_here(harness: Harness, clock: Clock) -> None:
    stranger = Claims("idp|ann", "s", clock.now + 60, clock.now, "t", "https://idp/", roles=frozenset())
    assert await refused(harness.accounts.logout(stranger, ORIGIN)) == "forbidden"
    assert await refused(harness.accounts.logout_all(stranger, ORIGIN)) == "forbidden"
    assert await refused(harness.accounts.change_password(stranger, WRONG, WRONG, origin=ORIGIN)) == "forbidden"


# ---- outages and disconnected clients


async def test_a_database_that_is_down_is_reported(prepared_url: str, clock: Clock) -> None:
    breaker = Breaker(clock=lambda: 0.0)
    async with opened(prepared_url, COMMAND, breaker=breaker) as database:
        harness = make_harness(database, clock)
        pair = await harness.register()
        claims = harness.claims(pair)
        breaker.down()
        for work in (
            harness.register("bob@example.com"),
            harness.login(),
            harness.accounts.refresh(pair.refresh_token, ORIGIN),
            harness.accounts.logout(claims, ORIGIN),
            harness.accounts.change_password(claims, WRONG, WRONG, origin=ORIGIN),
        ):
            with pytest.raises(StorageUnavailable):
                await work
        harness.close()


async def test_a_disconnected_client_does_not_separate_a_change_from_its_announcement(harness: Harness) -> None:
    pair = await harness.register()
    leaving = asyncio.create_task(harness.accounts.logout(harness.claims(pair), ORIGIN))
    await asyncio.sleep(0.001)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await until(lambda: len(harness.feed.announced) == 2)
    record = await harness.record(pair)
    assert record.ended_sessions == {harness.claims(pair).session}
    assert harness.feed.announced[-1] == (record.id, record)


async def test_a_change_that_fails_after_its_client_disconnected_disturbs_no_other(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise StorageUnavailable("database", "gone")

    leaving = asyncio.create_task(ChangePublisher(harness.feed).finish(failing()))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert caplog.records == []


async def test_a_change_that_is_cancelled_itself_is_cancelled(harness: Harness) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await ChangePublisher(harness.feed).finish(cancelled())
