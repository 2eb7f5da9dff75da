"""One count for all replicas over a real Valkey, and its outages."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.errors import StorageUnavailable
from gateway.gate.leaky_buckets import Quota
from gateway.gate.rate_limits import Count, Limits
from gateway.policy.policy import Policy
from gateway.storage.redis.buckets import RedisBuckets
from gateway.storage.redis.client import RedisLink
from tests.gate.test_rate_limits import Request, limit_of
from tests.policy.policies import policy_of
from tests.support.waiting import promised, until


@asynccontextmanager
async def linked(*urls: str) -> AsyncIterator[list[RedisBuckets]]:
    """The shared buckets of several replicas."""
    async with AsyncExitStack() as stack:
        links = [RedisLink(url, "installation") for url in urls]
        for link in links:
            stack.push_async_callback(link.close)
            await link.open()
        yield [RedisBuckets(link) for link in links]


@dataclass
class Replica:
    """The limits of one gateway process. All replicas have the same configuration, each its own copy."""

    buckets: RedisBuckets
    policy: Policy
    limits: Limits

    @classmethod
    def of(cls, buckets: RedisBuckets, **settings: object) -> "Replica":
        policy = policy_of([{"path": "/x/{id}", "name": "limited", "rate_limit": settings}])
        return cls(buckets, policy, Limits(policy.routes, shared=buckets))

    async def count(self, user_id: str | None = "u1") -> Count:
        """Count like the gate."""
        limit = limit_of(self.limits, self.policy)
        return limit.count(user_id, Request()) or await limit.count_shared(user_id, Request())

    async def passes(self, user_id: str | None = "u1") -> bool:
        return (await self.count(user_id)).retry_after is None


async def through(*replicas: Replica, each: int, user_id: str | None = "u1") -> int:
    """How many of `each` concurrent requests to every replica pass."""
    answers = await asyncio.gather(*(replica.passes(user_id) for replica in replicas for _ in range(each)))
    return sum(answers)


async def test_replicas_together_admit_as_many_as_the_limit(shared_valkey: ValkeyServer) -> None:
    async with linked(*[shared_valkey.url] * 3) as all_buckets:
        replicas = [Replica.of(buckets, requests=50, per="1h") for buckets in all_buckets]
        assert await through(*replicas, each=40) == 50
        assert await through(*replicas, each=5) == 0
        assert await through(*replicas, each=1, user_id="u2") == 3


async def test_leaked_requests_can_be_sent_again_to_any_replica(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url, shared_valkey.url) as (one, other):
        # An empty bucket leaks nothing. This one takes ten seconds to empty, longer than any delay of the machine.
        first, second = (Replica.of(buckets, requests=100, per="10s") for buckets in (one, other))
        started = time.monotonic()
        passed = await through(first, second, each=60)
        filled = time.monotonic()  # It leaks from its first request on, which came before.
        while (before := time.monotonic()) < filled + 1.0:
            passed += await through(first, second, each=60)
            await asyncio.sleep(0.05)
        passed += await through(first, second, each=60)
        after = time.monotonic()
        assert 100 + (before - filled) * 10 - 1 <= passed <= 100 + (after - started) * 10


async def test_the_script_counts_as_the_pure_function_does(shared_valkey: ValkeyServer) -> None:
    quota = Quota(7, 0.05)
    async with linked(shared_valkey.url) as (buckets,):
        with shared_valkey.client() as client:
            level, at = 0.0, 0.0
            for number in range(200):
                answered = await buckets.take("k", quota)
                kept = client.get("gateway:2:installation:k")
                if kept is None:  # it ended in the meantime
                    level, at = 0.0, 0.0
                    continue
                kept_level, kept_at = (float(word) for word in str(kept).split())
                if kept_at != at * 1e6:
                    assert answered == kept_level <= quota.full
                    if at:
                        assert answered == pytest.approx(quota.with_one_more(level, at, kept_at / 1e6), abs=1e-4)
                else:
                    assert answered > quota.full
                level, at = kept_level, kept_at / 1e6
                await asyncio.sleep(0.02 if number % 20 == 0 else 0)


async def test_nothing_is_kept_longer_than_it_matters(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as (buckets,):
        with shared_valkey.client() as client:
            await buckets.take("long", Quota(5, 60.0))
            assert 59_000 < client.pttl("gateway:2:installation:long") <= 60_001
            await buckets.take("short", Quota(5, 0.05))
            await until(lambda: client.exists("gateway:2:installation:short") == 0, within=1.0)


async def test_a_crowd_is_counted_in_few_round_trips(shared_valkey: ValkeyServer) -> None:
    def evaluated() -> int:
        with shared_valkey.client() as client:
            return int(client.info("commandstats")["cmdstat_eval"]["calls"])

    quota = Quota(50, 86_400.0)  # nothing leaks during the test
    async with linked(shared_valkey.url) as (buckets,):
        before = evaluated()
        levels = await asyncio.gather(*(buckets.take(f"k{number % 100}", quota) for number in range(1000)))
        assert evaluated() - before <= 1000 / 128 + 3
        assert all(level < 11 for level in levels)
        assert sum(1 for level in levels if level > 9.9) == 100


@pytest.mark.parametrize("value", ["", "nonsense", "5", "5 x", "x 5", "5 5 5"])
async def test_a_value_that_is_none_of_ours_is_no_value(shared_valkey: ValkeyServer, value: str) -> None:
    async with linked(shared_valkey.url) as (buckets,):
        with shared_valkey.client() as client:
            client.set("gateway:2:installation:k", value)
        assert await buckets.take("k", Quota(5, 60.0)) == 1.0
        assert await buckets.take("k", Quota(5, 60.0)) == pytest.approx(2.0, abs=0.01)


async def test_a_server_whose_clock_was_set_back_refuses_no_client(shared_valkey: ValkeyServer) -> None:
    """As after a failover to a server with an earlier clock: nothing leaks until time has caught up."""
    async with linked(shared_valkey.url) as (buckets,):
        future = int((time.time() + 86400) * 1e6)
        with shared_valkey.client() as client:
            client.set("gateway:2:installation:k", f"3 {future}", px=60_000)
        quota = Quota(4, 0.4)
        assert await buckets.take("k", quota) == 4.0
        assert await buckets.take("k", quota) > quota.full
        await asyncio.sleep(0.11)
        assert await buckets.take("k", quota) <= quota.full


async def test_a_client_over_the_limit_is_refused_without_a_query(shared_valkey: ValkeyServer) -> None:
    """A flood by one client must not become a flood of the store."""
    async with linked(shared_valkey.url) as (buckets,):
        replica = Replica.of(buckets, requests=3, per="1h")
        limit = limit_of(replica.limits, replica.policy)
        assert await through(replica, each=4) == 3
        count = limit.count("u1", Request())
        assert count is not None
        assert count.retry_after == 1200
        assert limit.count("u2", Request()) is None


async def test_both_sides_report_the_same_to_the_client(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url, shared_valkey.url) as (one, other):
        first, second = (Replica.of(buckets, requests=3, per="1h") for buckets in (one, other))
        states = [(await replica.count()).fields[1][1] for replica in (first, second, first, second, first)]
        assert [text.split(b";")[1] for text in states] == [b"r=2", b"r=1", b"r=0", b"r=0", b"r=0"]


# ---- outages


async def test_without_redis_each_process_counts_for_itself(valkey: ValkeyServer) -> None:
    valkey.kill()
    async with linked(valkey.url, valkey.url) as (one, other):
        first, second = (Replica.of(buckets, requests=5, per="1h") for buckets in (one, other))
        assert await through(first, each=10) == 5
        assert await through(second, each=10) == 5


async def test_killed_mid_way_counting_goes_on_here_from_where_it_was(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as (buckets,):
        replica = Replica.of(buckets, requests=10, per="1h")
        assert await through(replica, each=6) == 6
        valkey.kill()
        assert await through(replica, each=20) == 4
        valkey.restart()
        await until(lambda: buckets.available)
        assert await replica.passes("u2")
        with valkey.client() as client:
            assert len(client.keys("gateway:2:installation:limit:*")) == 1


async def test_a_hung_redis_delays_a_request_by_a_quarter_of_a_second_once(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as (buckets,):
        replica = Replica.of(buckets, requests=10, per="1h")
        assert await replica.passes()
        valkey.pause()
        try:
            started = time.monotonic()
            assert await through(replica, each=20) == 9
            assert time.monotonic() - started < promised(0.6)
            started = time.monotonic()
            assert await replica.passes("u2")
            assert time.monotonic() - started < promised(0.15)
        finally:
            valkey.resume()
        await until(lambda: buckets.available)
        assert not await replica.passes()
        assert await replica.passes("u2")


async def test_a_redis_that_takes_no_more_makes_the_process_count(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as (buckets,):
        replica = Replica.of(buckets, requests=5, per="1h")
        assert await through(replica, each=2) == 2
        with shared_valkey.client() as client:
            client.config_set("maxmemory", "1")
            try:
                assert await through(replica, each=10) == 3
                assert not buckets.available
            finally:
                client.config_set("maxmemory", "0")


async def test_a_cancelled_count_affects_no_other(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as (buckets,):
        valkey.pause()
        try:
            waiting = [asyncio.create_task(buckets.take("k", Quota(5, 60.0))) for _ in range(3)]
            await asyncio.sleep(0.05)
            waiting[0].cancel()
            late = asyncio.create_task(buckets.take("k", Quota(5, 60.0)))
            await asyncio.sleep(0.05)
        finally:
            valkey.resume()
        results = await asyncio.gather(*waiting[1:], late)
        assert [round(level) for level in results] == [2, 3, 4]


async def test_closing_leaves_no_caller_waiting(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as (buckets,):
        valkey.pause()
        running = asyncio.all_tasks()
        try:
            waiting = [asyncio.create_task(buckets.take("k", Quota(5, 60.0))) for _ in range(3)]
            await asyncio.sleep(0.01)
            counting = asyncio.all_tasks() - running - {*waiting}
            assert counting
            for task in counting:
                task.cancel()
            for task in waiting:
                with pytest.raises(StorageUnavailable):
                    await asyncio.wait_for(task, 1.0)
        finally:
            valkey.resume()


async def test_a_cluster_counts_like_one_server(cluster: list[ValkeyServer]) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    async with linked(url, url) as (one, other):
        replicas = [Replica.of(buckets, requests=4, per="1h") for buckets in (one, other)]
        users = [f"u{number}" for number in range(60)]
        # One user after another: 480 commands at once exceed the time limit of a command on a busy machine, and each
        # replica then counts alone.
        assert [await through(*replicas, each=4, user_id=user) for user in users] == [4] * 60
        assert min(node.client().dbsize() for node in cluster) > 5
