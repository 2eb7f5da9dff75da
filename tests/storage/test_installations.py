"""Two installations over one Redis: each has its own database, and nothing in Redis crosses over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import delete

from bench.stores.valkey import ValkeyServer
from gateway.accounts.failed_attempts import Allowance, Counter, UnreportedCounts
from gateway.accounts.store import NewUser
from gateway.cli.stores import opened
from gateway.errors import CannotStart
from gateway.gate.leaky_buckets import Quota
from gateway.identity.principal import Principal
from gateway.identity.signing_keys import key_ring, mac_keys
from gateway.identity.user import Actor
from gateway.server.resources import Stores, open_stores
from gateway.settings.model import Settings
from gateway.storage import schema
from gateway.storage.database import COMMAND, Database
from gateway.storage.schema import installation_id
from gateway.storage.subjects import Subjects
from gateway.storage.tables import installation
from tests.policy.policies import settings_of
from tests.support.waiting import promised, until

KEY = "the same signing key in both installations"
BY = Actor("a test")


class Installation:
    """A database and the stores of a gateway over it. All installations use the same user ids."""

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self.settings = settings
        self.stores = stores

    async def found(self, user_id: str = "u1") -> Principal:
        principal = await self.stores.directory.principal(user_id)
        assert principal is not None
        return principal

    def copy(self, user_id: str = "u1") -> object:
        return self.stores.directory.cached(user_id)

    async def disable(self) -> None:
        record = await self.stores.users.change("u1", is_active=False, by=BY, admin_roles=())
        await self.stores.feed.announce("u1", record)


@pytest.fixture
async def pair(shared_valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[tuple[Installation, Installation]]:
    async with AsyncExitStack() as stack:
        yield (
            await installed(shared_valkey, tmp_path / "a.db", "admin", stack),
            await installed(shared_valkey, tmp_path / "b.db", "user", stack),
        )


async def installed(valkey: ValkeyServer, file: Path, role: str, stack: AsyncExitStack) -> Installation:
    settings = settings_of(
        storage={"database": f"sqlite:///{file}", "redis": valkey.url},
        tokens={"keys": [{"kid": "k1", "algorithm": "HS256", "secret": KEY}]},
        cache={"user_ttl": "60s"},
    )
    stores = await open_stores(settings, mac_keys(settings, key_ring(settings)), stack)
    await stores.users.create(NewUser("u1", "ann@example.com", "ann@example.com", "hash", frozenset([role])), by=BY)
    return Installation(settings, stores)


async def test_a_user_has_the_roles_of_the_own_installation(
    pair: tuple[Installation, Installation], shared_valkey: ValkeyServer
) -> None:
    one, other = pair
    assert (await one.found()).roles == {"admin"}
    with shared_valkey.client() as client:
        await until(lambda: client.keys("*user:u1"))
    assert (await other.found()).roles == {"user"}


async def test_a_disabled_account_and_a_blocked_subject_are_those_of_one_installation(
    pair: tuple[Installation, Installation],
) -> None:
    one, other = pair
    for installation_ in pair:
        await installation_.found()
        await installation_.found("idp|42")
    await one.disable()
    blocked = await Subjects(one.stores.database).block("idp|42", "a test", by=BY)
    await one.stores.feed.announce("idp|42", blocked)
    await one.stores.feed.announce("u1", None)
    await asyncio.sleep(0.1)  # the time in which a message would have arrived
    assert None not in (other.copy("u1"), other.copy("idp|42"))
    other.stores.directory.flush()
    for user_id in ("u1", "idp|42"):
        assert (await other.found(user_id)).is_active
    assert not (await one.found("idp|42")).is_active


async def test_failed_logins_and_rate_limits_are_counted_by_installation(
    pair: tuple[Installation, Installation],
) -> None:
    counter = Counter("owner", "{owner}:key", Allowance(3, 60.0, 60.0))
    standings = []
    levels = []
    for installation_ in pair:
        assert installation_.stores.failures is not None and installation_.stores.buckets is not None
        standings += await installation_.stores.failures.report([UnreportedCounts(counter, 2, 0.0, 60.0)])
        levels += [await installation_.stores.buckets.take("limit:a", Quota(100, 3600.0)) for _ in range(2)]
    assert [standing.failures for standing in standings] == [2, 2]
    assert [round(level) for level in levels] == [1, 2, 1, 2]


async def test_a_command_reaches_the_gateways_of_its_own_database(pair: tuple[Installation, Installation]) -> None:
    one, other = pair
    for installation_ in pair:
        await installation_.found()
    async with opened(one.settings, is_named=False) as (_, feed):
        await feed.announce("u1", None)
    await until(lambda: one.copy() is None, within=promised(0.1))
    assert other.copy() is not None


async def test_all_names_in_redis_hold_the_id_of_the_database(
    pair: tuple[Installation, Installation], shared_valkey: ValkeyServer
) -> None:
    for installation_ in pair:
        await installation_.found()
    ids = [await installation_id(installation_.stores.database) for installation_ in pair]
    assert len(set(ids)) == 2
    with shared_valkey.client() as client:
        await until(lambda: len(client.keys("*:user:u1")) == 2)
        names = [*client.keys(), *client.pubsub_channels()]
    assert {name.split(":")[2] for name in names} == set(ids)


async def test_a_database_without_an_id_is_refused(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}", limits=COMMAND)
    try:
        await schema.upgrade(database)
        await database.write(lambda connection: connection.execute(delete(installation)))
        with pytest.raises(CannotStart, match="no row in the table 'installation'"):
            await installation_id(database)
    finally:
        await database.close()
