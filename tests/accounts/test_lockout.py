"""Lockout after failed logins: alone, and with replicas over a real Valkey."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.accounts.emails import email_address
from gateway.accounts.lockout import FailedAttempt, Lockout, account_owner, address_owner
from gateway.errors import Refusal
from gateway.settings.model import LockoutSettings
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.failed_attempts import RedisFailures
from gateway.wire.addresses import Callers
from tests.support.valkey import cluster
from tests.support.waiting import promised, until

__all__ = ["cluster"]

ANN, BOB = "ann@example.com", "bob@example.com"
HERE, THERE = "192.0.2.1", "198.51.100.7"
SETTINGS = LockoutSettings(failures=3, window=60.0, ban=30.0, per_address_failures=5)


class Time:
    """A clock that moves only on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def alone(time: Time) -> Lockout:
    """The lockout of a process without Redis."""
    return Lockout(SETTINGS, clock=time)


async def fails(lockout: Lockout, account: str = ANN, address: str = HERE) -> int | None:
    """Try a wrong password. None, or the seconds to wait if it was not checked."""
    try:
        attempt = await lockout.attempt(email_address(account).canonical, address)
    except Refusal as refusal:
        assert (refusal.code, refusal.status) == ("locked_out", 429)
        assert refusal.retry_after is not None and refusal.retry_after >= 1
        return refusal.retry_after
    await attempt.failed()
    return None


async def is_open(lockout: Lockout, account: str = ANN, address: str = HERE) -> bool:
    """Whether a password would be checked, without counting."""
    try:
        await lockout.attempt(account, address)
    except Refusal:
        return False
    return True


async def test_after_so_many_failures_an_account_is_shut_for_this_address_and_no_other(alone: Lockout) -> None:
    assert [await fails(alone) for _ in range(5)] == [None, None, None, 30, 30]
    assert await is_open(alone, ANN, THERE), "an attacker elsewhere locks no victim out"
    assert await is_open(alone, BOB, HERE)


async def test_a_ban_ends_at_the_announced_time(time: Time) -> None:
    alone = Lockout(dataclasses.replace(SETTINGS, per_address_failures=100), clock=time)
    for _ in range(3):
        await fails(alone)
    time.now += 29.5
    assert await fails(alone) == 1
    time.now += 0.5
    assert [await fails(alone) for _ in range(4)] == [None, None, None, 30]


async def test_an_address_that_fails_with_many_accounts_is_shut_for_all(alone: Lockout) -> None:
    """One password tried on every account never fails twice on the same account."""
    assert [await fails(alone, f"user{number}@example.com") for number in range(5)] == [None] * 5
    assert await fails(alone, BOB) == 30
    assert await is_open(alone, BOB, THERE)


async def test_a_success_clears_the_account_but_not_the_address(alone: Lockout) -> None:
    """Otherwise an attacker with an account could reset the count between guesses."""
    for _ in range(2):
        await fails(alone)
        await fails(alone)
        await (await alone.attempt(ANN, HERE)).succeeded()
    assert await fails(alone) is None
    assert await fails(alone, BOB) == 30


@pytest.mark.parametrize(
    "spelling",
    ["Bob@example.com", "bob@example.com ", " BOB@EXAMPLE.COM", "\uff22\uff4f\uff42@example.com", "bob@EXAMPLE.com"],
)
async def test_CVE_2026_47203_spellings_of_one_address_are_one_counter(alone: Lockout, spelling: str) -> None:
    for _ in range(3):
        assert await fails(alone, spelling) is None
    assert not await is_open(alone, BOB)


async def test_a_network_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4(alone: Lockout) -> None:
    for host in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:0:ffff::"):
        assert await fails(alone, ANN, host) is None
    assert not await is_open(alone, ANN, "2001:db8::dead")
    assert await is_open(alone, ANN, "2001:db8:0:1::1")
    for _ in range(3):
        await fails(alone, BOB, "::ffff:192.0.2.1")
    assert not await is_open(alone, BOB, "192.0.2.1")


async def test_the_lockout_is_checked_again_after_the_wait_for_a_thread(alone: Lockout) -> None:
    """Of concurrent attempts, only those that run at the same time can exceed the allowance."""
    attempts: list[FailedAttempt] = [await alone.attempt(ANN, HERE) for _ in range(50)]
    tried = 0
    for attempt in attempts:
        try:
            attempt.check()
        except Refusal:
            continue
        tried += 1
        await attempt.failed()
    assert tried == 3


async def test_memory_is_bounded_under_a_flood_of_made_up_names() -> None:
    lockout = Lockout(LockoutSettings(per_address_failures=1_000_000))
    for number in range(70_000):
        await (await lockout.attempt(f"{number}" + "x" * 100, HERE)).failed()
    assert len(lockout) <= 65_537


# ---- replicas


class Replica(Lockout):
    """The lockout of one of several processes. `failures` are the counts in Redis."""

    def __init__(self, link: RedisLink) -> None:
        self.failures = RedisFailures(link)
        super().__init__(SETTINGS, shared=self.failures)


@asynccontextmanager
async def replicas(url: str, count: int = 2) -> AsyncIterator[list[Replica]]:
    """The lockouts of several processes over one Redis."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            link = RedisLink(url, "installation")
            stack.push_async_callback(link.close)
            await link.open()
            made.append(Replica(link))
        yield made


async def test_replicas_count_together(shared_valkey: ValkeyServer) -> None:
    async with replicas(shared_valkey.url) as (one, other):
        assert [await fails(one), await fails(other), await fails(one)] == [None] * 3
        assert 25 <= (await fails(other) or 0) <= 30
        assert 25 <= (await fails(one) or 0) <= 30
        assert await is_open(other, ANN, THERE)
        assert [await fails(other, f"user{number}@example.com") for number in range(2)] == [None] * 2
        assert not await is_open(one, BOB)


async def test_a_success_on_one_replica_clears_the_account_on_all(shared_valkey: ValkeyServer) -> None:
    async with replicas(shared_valkey.url) as (one, other):
        await fails(one)
        await fails(other)
        await (await other.attempt(ANN, HERE)).succeeded()
        assert [await fails(one), await fails(other)] == [None, None]
        assert await is_open(one)


async def test_parallel_failures_on_many_replicas_are_all_counted(shared_valkey: ValkeyServer) -> None:
    async with replicas(shared_valkey.url, 3) as all_replicas:
        attempts = [await each.attempt(f"{number}@example.com", HERE) for each in all_replicas for number in range(2)]
        await asyncio.gather(*(attempt.failed() for attempt in attempts))
        for each in all_replicas:
            assert not await is_open(each, BOB)


async def test_keys_in_redis_expire_and_contain_no_names(shared_valkey: ValkeyServer) -> None:
    async with replicas(shared_valkey.url, 1) as (one,):
        await fails(one)
        await one.failures.reset([account_owner(BOB)], lifetime=90.0)
        with shared_valkey.client() as client:
            keys = client.keys("*failures*")
            assert len(keys) == 3
            for key in keys:
                assert "ann" not in key and "192.0.2.1" not in key
                assert 50_000 < client.pttl(key) <= 90_000


async def test_a_pardon_reaches_every_replica_and_leaves_the_address_alone(shared_valkey: ValkeyServer) -> None:
    async with replicas(shared_valkey.url) as (one, other):
        for _ in range(3):
            await fails(one)
        assert not await is_open(other)
        await other.failures.reset([account_owner(ANN)], lifetime=90.0)
        assert await is_open(one) and await is_open(other)
        assert [await fails(one), await fails(other)] == [None, None]
        assert not await is_open(one, BOB), "five from this address by now"
        await one.failures.reset([address_owner(Callers().by_address(HERE))], lifetime=90.0)
        assert await is_open(other, BOB)


async def test_without_redis_counting_continues_and_is_reported_later(valkey: ValkeyServer) -> None:
    async with replicas(valkey.url) as (one, other):
        assert [await fails(one), await fails(other)] == [None, None]
        assert await is_open(one)
        valkey.pause()
        assert await fails(one) is None
        assert not await is_open(one), "closed with the third, whoever counts"
        assert await fails(other, BOB) is None
        valkey.resume()
        await until(lambda: one.failures.available and other.failures.available)
        assert not await is_open(one), "which tells Redis"
        assert not await is_open(other)


async def test_a_ban_outlives_a_restart_of_redis(valkey: ValkeyServer) -> None:
    async with replicas(valkey.url) as (one, other):
        for _ in range(3):
            await fails(one)
        valkey.restart()
        deadline = asyncio.get_running_loop().time() + 5.0
        while await is_open(other):  # until both have noticed, and one has reported the counts that Redis lost
            assert not await is_open(one)
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        await other.failures.reset([account_owner(ANN)], lifetime=90.0)
        assert await is_open(one) and await is_open(other)


async def test_an_emptied_redis_resets_no_counts(valkey: ValkeyServer) -> None:
    """The processes report their counts of the outage."""
    async with replicas(valkey.url) as (one, other):
        valkey.kill()
        await until(lambda: not one.failures.available and not other.failures.available)
        assert [await fails(one) for _ in range(4)][:3] == [None, None, None]
        valkey.start()
        await until(lambda: one.failures.available and other.failures.available)
        assert not await is_open(one)
        assert not await is_open(other)


async def test_a_redis_that_hangs_costs_a_quarter_of_a_second_once(valkey: ValkeyServer) -> None:
    async with replicas(valkey.url, 1) as (one,):
        assert await is_open(one)
        valkey.pause()
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert [await fails(one) for _ in range(4)][:3] == [None, None, None]
        assert loop.time() - started < promised(0.6)
        valkey.resume()


async def test_in_a_cluster_the_counts_of_one_owner_lie_together(
    cluster: list[ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.redis.client.LIMIT", 5.0)  # three more servers make a busy machine
    async with replicas(f"redis+cluster://127.0.0.1:{cluster[0].port}") as (one, other):
        assert [await fails(one), await fails(other), await fails(one)] == [None] * 3
        assert not await is_open(other)
        await one.failures.reset([account_owner(ANN)], lifetime=90.0)
        assert await is_open(other)


async def test_bans_are_counted_when_they_begin(alone: Lockout) -> None:
    while await is_open(alone):
        await fails(alone)
    for _ in range(3):
        await fails(alone)
    assert [(labels, count) for _, labels, count in alone.samples()] == [(("account",), 1)]
    number = 0
    while await is_open(alone, account=f"{number}@example.com"):
        number += 1
        await fails(alone, account=f"{number}@example.com")
    assert (("address",), 1) in [(labels, count) for _, labels, count in alone.samples()]
