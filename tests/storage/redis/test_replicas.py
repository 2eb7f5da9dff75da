"""Several replicas over one Redis: changes reach all of them, and outages grant no access."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from bench.stores.valkey import ValkeyServer
from gateway.errors import StorageUnavailable
from gateway.identity.directory import ABSENT
from gateway.identity.principal import Principal
from tests.identity.stores import MemoryStore, record
from tests.storage.authentic import CHANNEL, authentic_text, user_key
from tests.storage.replicas import Replica, replicas
from tests.support.waiting import promised, until

T = TypeVar("T")


async def timed(awaitable: Awaitable[T], *, within: float) -> T:
    """The result of the awaitable, which must not take longer."""
    started = time.monotonic()
    result = await awaitable
    took = time.monotonic() - started
    assert took < promised(within), f"took {took:.3f} s"
    return result


async def all_whole(*some: Replica, within: float = 5.0) -> None:
    await until(lambda: all(replica.whole for replica in some), within=within)


def known_version(replica: Replica) -> int | None:
    """The version of the replica's copy of u1."""
    known = replica.directory.cached("u1")
    return known.version if isinstance(known, Principal) else None


# ---- with Redis


async def test_a_change_is_seen_on_the_other_replica_within_100_ms(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url) as (one, other):
        delays = []
        for trial in range(40):
            await other.found()
            changed = asyncio.create_task(one.change(roles=frozenset([f"r{trial}"])))
            delays.append(await until(lambda: other.directory.cached("u1") is None, within=2.0, every=0.0))
            await changed
            assert (await other.found()).roles == {f"r{trial}"}
        print(f"seen after {statistics.median(delays) * 1000:.2f} ms (median), {max(delays) * 1000:.2f} ms (most)")
        assert statistics.median(delays) < 0.1
        assert max(delays) < promised(0.1)


async def test_the_replica_that_made_a_change_knows_it_at_once(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url, count=1) as (one,):
        await one.found()
        changed = store.change("u1", is_active=False)
        announcing = asyncio.create_task(one.feed.announce("u1", changed))
        await asyncio.sleep(0)
        assert one.directory.cached("u1") is None
        assert not (await one.found()).is_active
        await announcing


async def test_a_replica_finds_records_of_another_in_redis(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url, count=3) as (one, other, third):
        await one.found()
        with shared_valkey.client() as client:
            await until(lambda: client.exists(user_key("u1")))
        for replica in (other, third):
            assert (await replica.found()).record == record()
        assert store.asked == ["u1"]


async def test_a_replica_that_starts_later_finds_it_too(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url, count=1) as (one,):
        await one.found()
        with shared_valkey.client() as client:
            await until(lambda: client.exists(user_key("u1")))
        async with replicas(store, shared_valkey.url, count=1) as (late,):
            await late.found()
    assert store.asked == ["u1"]


async def test_many_askers_on_two_replicas_make_one_query_each_at_most(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url) as (one, other):
        await asyncio.gather(*(replica.found() for replica in (one, other) for _ in range(100)))
        assert 1 <= len(store.asked) <= 2


async def test_a_deleted_user_is_gone_everywhere(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url) as (one, other):
        stale = (await other.found()).record
        del store.users["u1"]
        await one.feed.announce("u1", None)
        await until(lambda: other.directory.cached("u1") is None)
        assert await other.user() is None
        assert other.directory.cached("u1") is ABSENT
        await other.cache.put(stale, age=0.0)  # a late reader
        assert await one.cache.get("u1") is None


async def test_a_registered_user_is_not_hidden_by_an_older_lookup(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore()
    async with replicas(store, shared_valkey.url) as (one, other):
        assert await other.user() is None
        store.users["u1"] = record()
        await one.feed.announce("u1", record())
        await until(lambda: other.directory.cached("u1") is None, within=promised(0.1))
        assert (await other.found()).id == "u1"


async def test_a_reader_that_began_before_a_change_cannot_bring_the_old_record_back(
    shared_valkey: ValkeyServer,
) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url) as (one, other):
        store.answering.clear()
        early = asyncio.create_task(other.user())
        await until(lambda: store.asked == ["u1"])
        changed = await one.change(is_active=False)
        store.answering.set()
        before = await early
        assert before is not None and before.is_active
        await other.cache.put(before.record, age=0.01)  # even if its write is late
        shared = await one.cache.get("u1")
        assert shared is not None and shared[0] == changed
        await until(lambda: other.directory.cached("u1") is None)
        assert not (await other.found()).is_active


async def test_a_storm_of_changes_and_readers_ends_with_the_last_change_everywhere(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url, count=3) as some:

        async def read(replica: Replica) -> None:
            for _ in range(150):
                await replica.user()
                await asyncio.sleep(0)

        async def write(replica: Replica) -> None:
            for number in range(30):
                await replica.change(roles=frozenset([f"{number}"]))

        await asyncio.gather(*map(read, some), *map(write, some))
        last = store.users["u1"]
        for replica in some:
            await until(lambda replica: known_version(replica) in (None, last.version), replica)
            assert (await replica.found()).record == last
        shared = await some[0].cache.get("u1")
        assert shared is not None and shared[0] == last


async def test_a_message_that_is_not_understood_makes_replicas_forget_everything(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, shared_valkey.url, count=1) as (one,):
        for text in ("[]", '["forget"]', '["forget", 1, 2]', '["new", "u1"]', "{}"):
            await one.found()
            with shared_valkey.client() as client:
                assert client.publish(CHANNEL, authentic_text(text)) == 1
            await until(lambda: one.directory.cached("u1") is None)
        assert one.feed.connected


# ---- without Redis


async def test_without_redis_at_the_start_everything_is_asked_of_the_database(valkey: ValkeyServer) -> None:
    valkey.kill()
    store = MemoryStore(record())
    async with replicas(store, valkey.url) as (one, other):
        assert not one.whole
        for count in range(1, 4):
            assert (await timed(one.found(), within=0.1)).is_active
            assert len(store.asked) == count
        await timed(one.change(is_active=False), within=0.1)
        assert not (await other.found()).is_active
        valkey.start()
        await all_whole(one, other)
        await until(lambda: one.feed.undelivered == 0)
        await asyncio.sleep(0.1)  # the message about it arrives here too
        await one.found()
        assert one.directory.cached("u1") is not None


async def test_redis_killed_and_restarted(valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, valkey.url) as (one, other):
        await one.found()
        await other.found()
        valkey.kill()
        await until(lambda: not one.feed.connected and not other.feed.connected, within=1.0)
        assert other.directory.cached("u1") is None
        await timed(one.change(is_active=False), within=0.3)
        for _ in range(3):
            assert not (await timed(other.found(), within=0.3)).is_active
        assert one.feed.undelivered == 1
        valkey.start()
        await all_whole(one, other)
        await until(lambda: one.feed.undelivered == 0)
        assert not (await other.found()).is_active
        shared = await one.cache.get("u1")
        assert shared is not None and not shared[0].is_active


async def test_a_hung_redis_is_abandoned_within_250_ms_and_admits_no_one(valkey: ValkeyServer) -> None:
    store = MemoryStore(record(), record("u2"))
    async with replicas(store, valkey.url) as (one, other):
        await one.found()
        await other.found()
        valkey.pause()
        await timed(one.found("u2"), within=0.6)
        await timed(one.change(is_active=False), within=0.6)
        assert not (await one.found()).is_active
        # The other one detects the silence, and uses no copy from then on.
        await until(lambda: not other.feed.connected, within=1.2)
        assert not (await timed(other.found(), within=0.6)).is_active
        for _ in range(5):  # by now no request waits for Redis
            await timed(one.found(), within=0.1)
            await timed(other.found(), within=0.1)
            await timed(one.change(roles=frozenset(["x"])), within=0.1)


async def test_a_redis_that_resumes_with_old_records_admits_no_one(valkey: ValkeyServer) -> None:
    """Its memory and buffers are older than a change that it has not received."""
    store = MemoryStore(record(), record("u2"))
    async with replicas(store, valkey.url) as (one, other):
        await one.found()
        await until(lambda: valkey.client().exists(user_key("u1")))
        valkey.pause()
        await other.found("u2")  # its record is written into the buffers of the hung server
        await until(lambda: not one.feed.connected and not other.feed.connected, within=2.0)
        store.change("u1", is_active=False)  # by a process that could not announce it
        store.change("u2", is_active=False)
        valkey.resume()
        refused = 0
        while not (one.whole and other.whole):
            for replica in (one, other):
                assert not (await replica.found("u1")).is_active
                assert not (await replica.found("u2")).is_active
                refused += 1
            await asyncio.sleep(0)
        assert refused
        for replica in (one, other):
            assert not (await replica.found("u1")).is_active
            assert not (await replica.found("u2")).is_active


async def test_commands_in_the_buffers_of_a_hung_server_live_no_longer_for_it(valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, valkey.url, ttl=1.0) as (one, _):
        valkey.pause()
        await one.cache.put(record(), age=0.0)
        await asyncio.sleep(1.0)
        valkey.resume()
        await all_whole(one)
        assert valkey.client().get(user_key("u1")) is None


async def test_changes_made_while_redis_is_down_are_announced_when_it_returns(valkey: ValkeyServer) -> None:
    store = MemoryStore(*(record(f"u{number}") for number in range(200)))
    async with replicas(store, valkey.url) as (one, other):
        valkey.pause()
        await one.change("u0", roles=frozenset(["first"]))
        for number in range(200):
            await timed(one.change(f"u{number}", roles=frozenset(["changed"])), within=0.3)
        assert one.feed.undelivered == 200
        valkey.resume()
        await until(lambda: one.feed.undelivered == 0)
        await all_whole(other)
        for number in range(200):
            shared = await other.cache.get(f"u{number}")
            assert shared is not None and shared[0] == store.users[f"u{number}"]


async def test_known_users_are_served_while_the_database_is_out_and_redis_is_there(valkey: ValkeyServer) -> None:
    store = MemoryStore(record(), record("u2"), record("u3"))
    async with replicas(store, valkey.url) as (one, other):
        await one.found("u1")
        await other.found("u2")
        await until(lambda: valkey.client().dbsize() == 2)
        store.fail()
        assert (await one.found("u1")).id == "u1"
        assert (await one.found("u2")).id == "u2"
        with pytest.raises(StorageUnavailable):
            await one.user("u3")


async def test_with_both_stores_down_no_one_is_admitted(valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, valkey.url, count=1) as (one,):
        await one.found()
        valkey.kill()
        store.fail()
        await until(lambda: not one.feed.connected, within=1.0)
        with pytest.raises(StorageUnavailable):
            await one.user()


async def test_replicas_are_whole_again_within_5_s_however_often_redis_goes(valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    async with replicas(store, valkey.url) as (one, other):
        for outage in range(3):
            if outage == 1:
                valkey.pause()
                await until(lambda: not one.whole and not other.whole, within=3.0)
                valkey.resume()
            else:
                valkey.restart()
            await all_whole(one, other)
            await one.found()
            await other.found()
            await one.change(roles=frozenset([f"r{outage}"]))
            await until(lambda: other.directory.cached("u1") is None, within=promised(0.1))
            assert (await other.found()).roles == {f"r{outage}"}


# ---- on the serving event loop


@pytest.mark.parametrize(
    "scenario",
    [
        test_redis_killed_and_restarted,
        test_a_hung_redis_is_abandoned_within_250_ms_and_admits_no_one,
        test_a_redis_that_resumes_with_old_records_admits_no_one,
        test_changes_made_while_redis_is_down_are_announced_when_it_returns,
        test_replicas_are_whole_again_within_5_s_however_often_redis_goes,
        test_a_storm_of_changes_and_readers_ends_with_the_last_change_everywhere,
        test_a_change_is_seen_on_the_other_replica_within_100_ms,
    ],
)
def test_uvloop_makes_no_difference(
    scenario: Callable[[ValkeyServer], Coroutine[Any, Any, None]], valkey: ValkeyServer
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario(valkey))
