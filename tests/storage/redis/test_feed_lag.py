"""Slow networks to Redis: connections that take seconds, and delayed messages."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.storage.redis.feed_lag import BOUND
from tests.identity.stores import MemoryStore, record
from tests.storage.authentic import CHANNEL, message
from tests.storage.replicas import Replica, replicas
from tests.support.relays import Relay, relay_to
from tests.support.waiting import until

LAG = "gateway_redis_feed_lag_seconds"


@pytest.fixture
async def relay(shared_valkey: ValkeyServer) -> AsyncIterator[Relay]:
    async with relay_to(shared_valkey.port) as made:
        yield made


def through(relay: Relay) -> str:
    return f"redis://127.0.0.1:{relay.port}/0"


def lag(replica: Replica) -> float:
    (value,) = (value for name, _, value in replica.feed.samples() if name == LAG)
    assert isinstance(value, float)
    return value


async def prompt(one: Replica, other: Replica) -> None:
    """A change is visible on the other replica within 100 ms."""
    await other.found()
    assert other.directory.cached("u1") is not None
    changed = await one.change(roles=frozenset([f"told at {time.monotonic()}"]))
    await until(lambda: other.directory.cached("u1") is None, within=1.0)
    assert (await other.found()).record == changed


# ---- slow connection setup


@pytest.mark.parametrize("seconds", [0.3, 2.6])
async def test_all_is_whole_again_within_5_s_where_connecting_takes(relay: Relay, seconds: float) -> None:
    store = MemoryStore(record())
    async with replicas(store, through(relay)) as (one, other):
        await until(lambda: one.whole and other.whole)
        await other.found()
        relay.connect_delay = seconds
        relay.cut()
        await until(lambda: not one.whole and not other.whole, within=0.5)
        store.change("u1", is_active=False)
        assert not (await other.found()).is_active
        await until(lambda: one.whole and other.whole, within=5.0)
        await prompt(one, other)
        # Concurrent callers share the ready connections and do not wait for new ones.
        crowd = (one.link.run(lambda client: client.get("x")) for _ in range(40))
        outcomes = await asyncio.gather(*crowd, return_exceptions=True)
        assert outcomes.count(None) >= 10
        await until(lambda: one.whole and other.whole, within=5.0)


async def test_a_start_where_connecting_takes_long_is_whole_within_5_s(relay: Relay) -> None:
    relay.connect_delay = 1.5
    async with replicas(MemoryStore(record()), through(relay), count=1) as (one,):
        await until(lambda: one.whole, within=5.0)


async def test_a_far_redis_is_used(relay: Relay) -> None:
    """More than 100 ms per round trip: network distance does not count as lag."""
    relay.answer_delay = relay.subscription_delay = 0.11
    async with replicas(MemoryStore(record()), through(relay)) as (one, other):
        await until(lambda: one.whole and other.whole)
        for _ in range(50):
            assert one.whole and other.whole
            await asyncio.sleep(0.02)
        assert 0.0 < lag(one) < BOUND


async def test_attempts_to_connect_are_bounded(relay: Relay) -> None:
    relay.connect_delay = 60.0
    async with replicas(MemoryStore(record()), through(relay), count=1):
        await asyncio.sleep(3.0)
        assert 3 <= relay.accepted <= 12


# ---- delayed messages


async def publish_all_the_time(server: ValkeyServer) -> None:
    with server.client() as client:
        while True:
            await asyncio.to_thread(client.publish, CHANNEL, message("forget", "another", 1))
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("seconds", [0.2, 3.0])
async def test_copies_are_not_used_while_news_are_late_though_messages_keep_coming(
    relay: Relay, shared_valkey: ValkeyServer, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(record())
    async with (
        replicas(store, shared_valkey.url, count=1) as (one,),
        replicas(store, through(relay), count=1) as (other,),
    ):
        await until(lambda: one.whole and other.whole)
        await other.found()
        busy = asyncio.create_task(publish_all_the_time(shared_valkey))
        relay.subscription_delay = seconds
        await until(lambda: not other.feed.connected, within=1.0)
        assert other.directory.cached("u1") is None
        assert lag(other) > BOUND
        for is_active in (False, True, False):
            await one.change(is_active=is_active)
            assert (await other.found()).is_active is is_active
            assert other.directory.cached("u1") is None
        assert one.whole
        assert caplog.text.count("arrive more than 100 ms late: no copy is used") == 1
        relay.subscription_delay = 0.0
        await until(lambda: other.feed.connected, within=seconds + 4.0)
        await prompt(one, other)
        assert lag(other) < BOUND
        busy.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await busy


@pytest.mark.parametrize("delayed", ["the subscription", "all answers"])
async def test_a_lag_that_was_there_from_the_start_is_reported(
    relay: Relay, delayed: str, caplog: pytest.LogCaptureFixture
) -> None:
    relay.subscription_delay = 0.2
    relay.answer_delay = 0.2 if delayed == "all answers" else 0.0
    async with replicas(MemoryStore(record()), through(relay), count=1) as (one,):
        ends = time.monotonic() + 2.0
        while time.monotonic() < ends:
            assert not one.whole
            await one.found()
            assert one.directory.cached("u1") is None
            await asyncio.sleep(0.01)
        # Answers that are late by nearly the limit of a call end some connections, and the lag of a new one is unknown.
        late = "arrive more than 100 ms late"
        await until(lambda: not one.link.available or (lag(one) >= BOUND and late in caplog.text))


async def test_shared_copies_outlast_late_news_because_none_are_missed(relay: Relay) -> None:
    store = MemoryStore(record())
    async with replicas(store, through(relay), count=1) as (one,):
        await one.found()
        await until(lambda: store.asked == ["u1"])
        relay.subscription_delay = 0.15
        await until(lambda: not one.feed.connected)
        relay.subscription_delay = 0.0
        await until(lambda: one.feed.connected)
        assert (await one.found()).id == "u1"
        assert store.asked == ["u1"]


async def test_a_process_that_was_busy_does_not_take_the_news_to_be_late(shared_valkey: ValkeyServer) -> None:
    async with replicas(MemoryStore(record()), shared_valkey.url, count=1) as (one,):
        known = await one.found()
        for pause in (0.15, 0.4, 0.02, 0.7, 0.26, 0.33):
            time.sleep(pause)  # blocks every other task
            await asyncio.sleep(0.03)
            assert one.directory.cached("u1") is known
        assert one.whole


async def test_a_replayed_pulse_is_ignored(relay: Relay, shared_valkey: ValkeyServer) -> None:
    async with replicas(MemoryStore(record()), through(relay), count=1) as (one,):
        await until(lambda: one.whole)
        with shared_valkey.client(decode_responses=False) as client:
            (channel,) = client.pubsub_channels("*:pulse:*")
            watcher = client.pubsub(ignore_subscribe_messages=True)
            watcher.subscribe(channel)
            heard = None
            while heard is None:
                heard = watcher.get_message(timeout=0.01)
                await asyncio.sleep(0.01)
            relay.subscription_delay = 0.5
            await until(lambda: not one.feed.connected)
            relay.subscription_delay = 0.0
            await asyncio.sleep(0.6)
            relay.subscription_delay = 0.5
            await until(lambda: not one.feed.connected)
            for _ in range(10):
                client.publish(channel, heard["data"])
                client.publish(channel, b"0 forged")
            await asyncio.sleep(0.05)
            assert not one.feed.connected


async def test_a_subscription_without_any_pulse_is_made_again(relay: Relay, shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with (
        replicas(store, shared_valkey.url, count=1) as (one,),
        replicas(store, through(relay), count=1) as (other,),
    ):
        await until(lambda: one.whole and other.whole)
        relay.silent = True
        await until(lambda: not other.whole, within=1.0)
        relay.silent = False
        await until(lambda: other.whole, within=5.0)
        await prompt(one, other)
