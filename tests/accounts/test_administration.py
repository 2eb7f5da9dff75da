"""Account administration, on both databases."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

from gateway.accounts.store import Selection
from gateway.errors import FieldError, Refusal
from gateway.identity.user import Actor, ClientInfo, UserRecord
from gateway.storage.database import Database
from gateway.storage.tables import audit
from tests.accounts.harness import PASSWORD, Harness, make_harness, make_settings
from tests.support.databases import Clock

Act = Callable[[Harness], Awaitable[UserRecord]]
ANN = "ann@example.com"


async def refusal(work: Awaitable[object]) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await work
    return raised.value


async def test_an_account_is_made_with_the_default_roles(harness: Harness) -> None:
    record = await harness.administration.create("Ann@Example.com", PASSWORD)
    assert (record.email, record.roles, record.version) == ("Ann@Example.com", frozenset({"user"}), 1)
    assert harness.feed.announced == [(record.id, record)]
    assert await harness.login()


@pytest.mark.parametrize("roles", [(), ("admin",), ["b", "a", "b"]])
async def test_or_with_those_that_are_given(harness: Harness, roles: list[str]) -> None:
    assert (await harness.administration.create(ANN, PASSWORD, roles)).roles == frozenset(roles)


async def test_it_need_not_be_open_to_register(database: Database, clock: Clock) -> None:
    harness = make_harness(database, clock, make_settings(registration="closed"))
    assert await harness.administration.create(ANN, PASSWORD)
    harness.close()


async def test_all_errors_of_a_new_account_are_reported_at_once(harness: Harness) -> None:
    refused = await refusal(harness.administration.create("ann", "short", ["ok", "not\nok"]))
    assert (refused.code, refused.status) == ("invalid_fields", 422)
    assert refused.fields == (
        FieldError("email", "must be a plain e-mail address, like name@example.com"),
        FieldError("password", "must be at least 8 characters long"),
        FieldError("roles", "must be role names: up to 128 printable characters, no space around them"),
    )
    assert harness.feed.announced == []


async def test_an_address_that_is_taken_is_refused_in_every_spelling(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    for spelling in (ANN, " ANN@EXAMPLE.COM", "Ａnn@example.com"):
        assert (await refusal(harness.administration.create(spelling, PASSWORD))).code == "email_taken"


ACTS: dict[str, Act] = {
    "show": lambda harness: harness.administration.show(ANN),
    "disable": lambda harness: harness.administration.disable(ANN),
    "enable": lambda harness: harness.administration.enable(ANN),
    "set_roles": lambda harness: harness.administration.set_roles(ANN, ["x"]),
    "set_password": lambda harness: harness.administration.set_password(ANN, "a new password"),
    "revoke": lambda harness: harness.administration.revoke(ANN),
    "delete": lambda harness: harness.administration.delete(ANN),
}


@pytest.mark.parametrize("act", ACTS)
async def test_an_unknown_user_is_not_found(harness: Harness, act: str) -> None:
    refused = await refusal(ACTS[act](harness))
    assert (refused.code, refused.detail) == ("not_found", "No account has this e-mail address")


@pytest.mark.parametrize("act", sorted(set(ACTS) - {"show"}))
async def test_every_act_is_announced_after_its_commit(harness: Harness, act: str) -> None:
    made = await harness.administration.create(ANN, PASSWORD)
    after = await ACTS[act](harness)
    assert harness.feed.announced[1:] == [(made.id, None if act == "delete" else after)]


async def test_an_account_can_be_disabled_and_enabled(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    pair = await harness.login()
    assert not (await harness.administration.disable(" ANN@example.com ")).is_active
    assert (await refusal(harness.accounts.refresh(pair.refresh_token, ClientInfo()))).code == "refresh_invalid"
    assert (await harness.administration.enable(ANN)).is_active
    assert await harness.accounts.refresh(pair.refresh_token, ClientInfo())


async def test_a_password_that_is_set_ends_all_sessions(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    sessions = {harness.claims(await harness.login()).session for _ in range(3)}
    assert (await harness.administration.set_password(ANN, "a new password")).ended_sessions == sessions
    assert (await refusal(harness.login())).code == "invalid_credentials"
    assert await harness.login(password="a new password")


async def test_a_password_that_cannot_be_is_refused(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    assert (await refusal(harness.administration.set_password(ANN, "x" * 73))).fields[0].field == "password"
    assert await harness.login()


async def test_revoking_ends_every_session_and_leaves_the_password(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    session = harness.claims(await harness.login()).session
    assert (await harness.administration.revoke(ANN)).ended_sessions == {session}
    assert await harness.login()


@pytest.mark.parametrize("roles", ["admin", 7, ["user", 7], [""]])
async def test_roles_that_cannot_be_are_refused(harness: Harness, roles: list[str]) -> None:
    await harness.administration.create(ANN, PASSWORD)
    assert (await refusal(harness.administration.set_roles(ANN, roles))).fields[0].field == "roles"


async def test_accounts_are_listed_and_searched(harness: Harness) -> None:
    for name in ("Cleo", "ann", "Bob"):
        await harness.administration.create(f"{name}@example.com", PASSWORD, [name.lower()])
    await harness.administration.disable("bob@example.com")

    async def listed(**selection: Any) -> list[str]:
        return [user.email for user in (await harness.administration.page(Selection(**selection))).users]

    assert await listed() == ["ann@example.com", "Bob@example.com", "Cleo@example.com"]
    assert await listed(query="cleo@") == ["Cleo@example.com"]
    assert await listed(query="@example.com", role="ann") == ["ann@example.com"]
    assert await listed(active=False) == ["Bob@example.com"]
    page = await harness.administration.page(Selection(limit=2))
    assert await listed(limit=2, after=page.next) == ["Cleo@example.com"]


async def test_of_two_concurrent_deletions_of_an_account_one_is_not_found(harness: Harness) -> None:
    await harness.administration.create(ANN, PASSWORD)
    outcomes = await asyncio.gather(*(harness.administration.delete(ANN) for _ in range(2)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Refusal", "UserRecord"]
    assert len(harness.feed.announced) == 2


# ---- the last administrator


@pytest.fixture
def hierarchy(database: Database, clock: Clock) -> Iterator[Harness]:
    made = make_harness(database, clock, make_settings(roles={"root": ("admin",), "admin": (), "user": ()}))
    yield made
    made.close()


@pytest.mark.parametrize("act", ["disable", "delete", "set_roles"])
async def test_the_last_administrator_cannot_be_removed(hierarchy: Harness, act: str) -> None:
    harness = hierarchy
    acts = ACTS | {"set_roles": lambda harness: harness.administration.set_roles(ANN, ["user"])}
    await harness.administration.create(ANN, PASSWORD, ["root"])
    refused = await refusal(acts[act](harness))
    assert (refused.code, refused.status) == ("last_admin", 409)
    assert len(harness.feed.announced) == 1
    await harness.administration.create("bob@example.com", PASSWORD, ["admin"])
    assert await acts[act](harness)


async def test_two_administrators_cannot_demote_each_other_at_once(harness: Harness) -> None:
    for name in ("ann", "bob"):
        await harness.administration.create(f"{name}@example.com", PASSWORD, ["admin"])
    outcomes = await asyncio.gather(
        harness.administration.set_roles(ANN, ["user"]),
        harness.administration.disable("bob@example.com"),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Refusal", "UserRecord"]


# ---- the audit trail


async def test_the_actor_is_recorded(harness: Harness, database: Database) -> None:
    made = await harness.administration.create(ANN, PASSWORD)
    by = Actor("admin-1", ClientInfo("192.0.2.1", "browser", "request-9"))
    await harness.administration.disable(ANN, by=by)
    await harness.administration.delete(ANN, by=by)
    columns = (audit.c.action, audit.c.actor, audit.c.subject, audit.c.address, audit.c.request_id)
    rows = await database.read(lambda connection: connection.execute(select(*columns).order_by(audit.c.id)).all())
    assert [tuple(row) for row in rows] == [
        ("user.created", "command-line", made.id, "", ""),
        ("user.disabled", "admin-1", made.id, "192.0.2.1", "request-9"),
        ("user.deleted", "admin-1", made.id, "192.0.2.1", "request-9"),
    ]


async def test_no_password_and_no_hash_is_in_it(harness: Harness, database: Database) -> None:
    await harness.administration.create(ANN, PASSWORD)
    await harness.administration.set_password(ANN, "a new password")
    await harness.login(password="a new password")
    found = repr(await database.read(lambda connection: connection.execute(select(audit)).all()))
    assert "$2b$" not in found and "password'" not in found and PASSWORD not in found
