"""A client with write access to Redis: it cannot create a record, move one, or extend the life of an old one."""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from bench.stores.valkey import ValkeyServer
from gateway.identity.signing_keys import MacKeys
from gateway.storage.redis.encoding import MAX_VALUE, RedisValues
from tests.identity.stores import MemoryStore, record
from tests.storage.authentic import (
    CHANNEL,
    PREFIX,
    SECRET,
    mac_keys,
    message,
    old_record,
    ring,
    signed,
    user_key,
    values,
)
from tests.storage.replicas import Replica, replicas
from tests.support.waiting import until

KEY = user_key("u1")
FOREVER = 10**12
ROOT = ["admin", "root"]
OTHER = "the signing key of another gateway"


def rejected(replica: Replica) -> dict[str, float]:
    found = [sample for sample in replica.feed.samples() if sample.family == "gateway_redis_rejected_total"]
    return {sample.labels[0]: sample.value for sample in found if isinstance(sample.value, float | int)}


def put(server: ValkeyServer, value: bytes, *, key: str = KEY, end: int | None = 60_000) -> None:
    with server.client() as client:
        client.set(key, value, px=end)


def held(server: ValkeyServer, key: str = KEY) -> bytes:
    with server.client(decode_responses=False) as client:
        value = client.get(key)
    assert isinstance(value, bytes)
    return value


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore(record(), record("root", roles=frozenset(ROOT), version=3))


@pytest.fixture
async def replica(store: MemoryStore, shared_valkey: ValkeyServer) -> AsyncIterator[Replica]:
    async with replicas(store, shared_valkey.url, count=1) as (one,):
        yield one


# ---- records


def with_roles(value: bytes, *roles: str) -> bytes:
    """The same value and MAC with other roles."""
    changed = value.replace(b'["user"]', json.dumps(list(roles)).encode())
    assert changed != value
    return changed


def part(index: int, new: bytes) -> Callable[[bytes], bytes]:
    """The value with another part."""

    def changed(value: bytes) -> bytes:
        parts = value.split(b" ", 4)
        parts[index] = new
        return b" ".join(parts)

    return changed


FORGED: dict[str, Callable[[bytes], bytes]] = {
    "a record without a MAC": lambda _: old_record("u1", roles=ROOT),
    "other roles": lambda value: with_roles(value, *ROOT),
    "another version": part(0, b"9"),
    "a version written otherwise": part(0, b"01"),
    "a longer life": part(2, b"%d" % FOREVER),
    "a later time": part(3, b"%d" % round(time.time() * 1000 + 3000)),
    "no MAC": part(1, b""),
    "a MAC of zeros": part(1, b"0" * 64),
    "a part of the MAC": lambda value: part(1, value.split(b" ")[1][:8])(value),
    "a MAC in capitals": lambda value: part(1, value.split(b" ")[1].upper())(value),
    "the MAC of a message": lambda value: part(1, message("forget", "u1", 1).split(b" ")[0])(value),
    "white space before the record": lambda value: value.replace(b"{", b" {", 1),
    "the key of another gateway": lambda _: values(OTHER).record(
        KEY, record(roles=frozenset(ROOT)), lifetime=60.0, age=0.0
    ),
    "garbage": lambda _: b"garbage",
    "nothing": lambda _: b"",
    "JSON": lambda _: json.dumps({"id": "u1", "roles": ROOT}).encode(),
    "deep JSON": lambda _: b"1 " + b"[" * 100_000,
    "more than is read": lambda value: value + b" " * MAX_VALUE,
}


@pytest.mark.parametrize("case", FORGED)
async def test_a_forged_record_is_a_miss_and_is_counted_and_deleted(
    replica: Replica, store: MemoryStore, shared_valkey: ValkeyServer, case: str
) -> None:
    genuine = values().record(KEY, record(), lifetime=60.0, age=0.0)
    put(shared_valkey, FORGED[case](genuine))
    assert await replica.cache.get("u1") is None
    assert rejected(replica) == {"record": 1}
    with shared_valkey.client() as client:
        assert client.get(KEY) is None
    assert (await replica.found()).roles == {"user"}
    assert store.asked == ["u1"]


async def test_the_genuine_record_of_these_cases_is_taken(replica: Replica, shared_valkey: ValkeyServer) -> None:
    put(shared_valkey, values().record(KEY, record(), lifetime=60.0, age=0.0))
    found = await replica.cache.get("u1")
    assert found is not None and found[0] == record()
    assert rejected(replica) == {}


async def test_the_record_of_an_administrator_is_not_valid_at_the_key_of_another_user(
    replica: Replica, shared_valkey: ValkeyServer
) -> None:
    await replica.found("root")
    with shared_valkey.client() as client:
        await until(lambda: client.exists(user_key("root")))
        client.copy(user_key("root"), KEY, replace=True)
    assert (await replica.found("u1")).roles == {"user"}
    assert rejected(replica) == {"record": 1}


@pytest.mark.parametrize("kind", ["list", "hash", "no end"])
async def test_a_key_of_another_kind_is_a_miss_and_is_deleted(
    replica: Replica, shared_valkey: ValkeyServer, kind: str
) -> None:
    genuine = values().record(KEY, record(), lifetime=60.0, age=0.0)
    with shared_valkey.client() as client:
        match kind:
            case "list":
                client.rpush(KEY, genuine)
            case "hash":
                client.hset(KEY, "field", genuine)
            case _:
                client.set(KEY, genuine)
        assert await replica.cache.get("u1") is None
        assert not client.exists(KEY)
    assert rejected(replica) == {"record": 1}


async def test_a_forged_version_does_not_keep_genuine_records_out(
    replica: Replica, shared_valkey: ValkeyServer
) -> None:
    for version in (b"9007199254740991", b"9" * 400):
        put(shared_valkey, version + b" forged", end=None)
        changed = await replica.change()
        await replica.found()
        await until(lambda: b"forged" not in held_or_nothing(shared_valkey))
        await replica.cache.put(changed, age=0.0)
        await until(lambda: held_or_nothing(shared_valkey))
        found = await replica.cache.get("u1")
        assert found is not None and found[0] == changed


def held_or_nothing(server: ValkeyServer) -> bytes:
    with server.client(decode_responses=False) as client:
        return bytes(client.get(KEY) or b"")


async def test_forged_records_of_many_users_cost_one_query_each_and_one_log_line(
    shared_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"u{number}" for number in range(300)]
    store = MemoryStore(*(record(name) for name in names))
    async with replicas(store, shared_valkey.url, count=1) as (one,):
        for name in names:
            put(shared_valkey, old_record(name, roles=ROOT), key=user_key(name))
        found = await asyncio.gather(*(one.found(name) for name in names))
        assert {role for principal in found for role in principal.roles} == {"user"}
        assert sorted(store.asked) == sorted(names)
        assert rejected(one) == {"record": 300}
    lines = [entry for entry in caplog.records if "authenticates" in entry.getMessage()]
    assert [entry.levelno for entry in lines] == [logging.WARNING]
    assert "admin" not in lines[0].getMessage()


# ---- genuine records, replayed


async def test_a_record_from_before_a_revocation_does_not_come_back_where_the_change_is_known(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    async with replicas(store, shared_valkey.url) as (one, other):
        await one.found()
        await until(lambda: held_or_nothing(shared_valkey))
        before = held(shared_valkey)
        await one.change(is_active=False)
        await until(lambda: other.directory.cached("u1") is None)
        for _ in range(3):
            put(shared_valkey, before, end=FOREVER)
            for replica in (one, other):
                replica.directory.flush()  # no copy of its own
                assert not (await replica.found()).is_active


async def test_an_old_record_lives_no_longer_than_user_ttl_with_any_expiry(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    """A replica that starts after the change knows only the record's age."""
    ttl = 1.0
    async with replicas(store, shared_valkey.url, ttl=ttl, count=1) as (one,):
        asked_at = time.monotonic()
        await one.found()
        await until(lambda: held_or_nothing(shared_valkey))
        before = held(shared_valkey)
        await one.change(is_active=False)
        async with replicas(store, shared_valkey.url, ttl=ttl, count=1) as (late,):
            active = True
            while active and time.monotonic() < asked_at + 3 * ttl:
                put(shared_valkey, before, end=FOREVER)
                active = (await late.found()).is_active
                ended_at = time.monotonic()
                await asyncio.sleep(0.01)
            assert not active
            assert ended_at < asked_at + ttl + 0.5
            put(shared_valkey, before, end=FOREVER)
            assert await late.cache.get("u1") is None
        assert rejected(late) == {}


@pytest.mark.parametrize(
    ("ahead", "left", "age"),
    [(0, 60_000, 0), (0, 25_000, 35), (0, 10**9, 0), (-20, 60_000, 20), (-20, 25_000, 35), (20, 25_000, 35)],
)
async def test_the_larger_age_counts_where_clocks_differ(
    replica: Replica, shared_valkey: ValkeyServer, ahead: int, left: int, age: int
) -> None:
    """`ahead` is the offset of the writer's clock in seconds, `left` the milliseconds until Redis deletes the key."""
    writer = RedisValues(mac_keys(), wall_clock=lambda: time.time() + ahead)
    put(shared_valkey, writer.record(KEY, record(), lifetime=60.0, age=0.0), end=left)
    found = await replica.cache.get("u1")
    assert found is not None
    assert age <= 60.0 - found[1] < age + 2.0


# ---- messages


FORGED_MESSAGES: dict[str, bytes] = {
    "a change": b'["forget", "u1", 99]',
    "a deletion": b'["forget", "u1", null]',
    "nothing": b"",
    "garbage": b"\x00\xff",
    "deep JSON": b"[" * 5000,
    "a MAC of zeros": b"0" * 64 + b' ["forget", "u1", null]',
    "the MAC of another message": message("forget", "u2", 1).split(b" ")[0] + b' ["forget", "u1", null]',
    "the MAC of a record": signed(KEY, 1, "x").split(b" ")[1] + b' ["forget", "u1", null]',
    "a message of another channel": values().message(f"{PREFIX}other", ["forget", "u1", None]),
    "the key of another gateway": values(OTHER).message(CHANNEL, ["forget", "u1", None]),
}


@pytest.mark.parametrize("case", FORGED_MESSAGES)
async def test_a_forged_message_is_counted_and_changes_nothing(
    replica: Replica, store: MemoryStore, shared_valkey: ValkeyServer, case: str
) -> None:
    known = await replica.found()
    with shared_valkey.client() as client:
        assert client.publish(CHANNEL, FORGED_MESSAGES[case]) == 1
    await until(lambda: rejected(replica) == {"message": 1})
    assert replica.directory.cached("u1") is known
    assert replica.whole
    await replica.change(is_active=False)  # a genuine message still arrives
    assert not (await replica.found()).is_active


async def test_a_genuine_message_that_is_published_again_voids_no_later_record(
    replica: Replica, shared_valkey: ValkeyServer
) -> None:
    with shared_valkey.client(decode_responses=False) as client:
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe(CHANNEL)
        listener.get_message(timeout=1)
        await replica.change(roles=frozenset(["editor"]))
        heard = listener.get_message(timeout=1)
        assert heard is not None
        known = await replica.found()
        for _ in range(10):
            client.publish(CHANNEL, heard["data"])
        client.publish(CHANNEL, b"a marker")
    await until(lambda: rejected(replica) == {"message": 1})
    assert replica.directory.cached("u1") is known


FLOOD = "for _ = 1, ARGV[2] do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"


def test_a_flood_of_forged_messages_keeps_no_caller_waiting(lasting_valkey: ValkeyServer) -> None:
    """20,000 messages at once, on the serving event loop. A request waits for one iteration of the loop; its CPU time
    is measured, which is independent of other processes."""

    async def flooded() -> float:
        async with replicas(MemoryStore(record()), lasting_valkey.url, count=1) as (one,):
            await one.found()
            with lasting_valkey.client() as client:
                forged = FORGED_MESSAGES["a MAC of zeros"]
                await asyncio.to_thread(client.eval, FLOOD, 1, CHANNEL, forged, 20_000)
            longest, before = 0.0, time.thread_time()
            while rejected(one) != {"message": 20_000}:
                await asyncio.sleep(0)
                longest, before = max(longest, time.thread_time() - before), time.thread_time()
            # The flood delays genuine messages. Copies are used again when it is over.
            await until(lambda: one.whole, within=3.0)
            return longest

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        longest = runner.run(flooded())
    print(f"the longest turn took {longest * 1000:.1f} ms")
    assert longest < 0.02


# ---- keys


async def test_replicas_with_the_same_cache_key_share_records_for_any_signing_key(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    one_key, other_key = (
        RedisValues(MacKeys(ring(secret), own_key="the cache key of both of these replicas"))
        for secret in (SECRET, OTHER)
    )
    async with (
        replicas(store, shared_valkey.url, count=1, values=one_key) as (one,),
        replicas(store, shared_valkey.url, count=1, values=other_key) as (other,),
    ):
        await one.found()
        await until(lambda: held_or_nothing(shared_valkey))
        await other.found()
        assert store.asked == ["u1"]
        changed = await one.change(is_active=False)
        await until(lambda: other.directory.cached("u1") is None)
        assert (await other.found()).record == changed
        assert rejected(one) == rejected(other) == {}


async def test_with_a_cache_key_the_signing_key_authenticates_nothing(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    """Upstreams that verify tokens can know an HS256 secret."""
    own = RedisValues(MacKeys(ring(SECRET), own_key="a cache key that no upstream knows"))
    async with replicas(store, shared_valkey.url, count=1, values=own) as (one,):
        put(shared_valkey, values().record(KEY, record(roles=frozenset(ROOT)), lifetime=60.0, age=0.0))
        assert (await one.found()).roles == {"user"}
        assert rejected(one) == {"record": 1}


async def test_records_and_messages_outlast_a_rotation_of_signing_keys(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    """The steps of docs/operations.md: second, first, removed. One replica is always a step behind."""
    old, new = SECRET, OTHER
    steps = [(old,), (old, new), (new, old), (new,)]
    for behind, ahead in itertools.pairwise(steps):
        async with (
            replicas(store, shared_valkey.url, count=1, values=values(*behind)) as (one,),
            replicas(store, shared_valkey.url, count=1, values=values(*ahead)) as (other,),
        ):
            for writer, reader in ((one, other), (other, one)):
                changed = await writer.change(roles=frozenset([f"r{len(store.asked)}"]))
                await until(lambda reader: reader.directory.cached("u1") is None, reader)
                found = await reader.cache.get("u1")
                assert found is not None and found[0] == changed, (behind, ahead)
                await reader.found()
            assert rejected(one) == rejected(other) == {}
    assert store.asked == []


async def test_a_record_under_an_unknown_key_is_a_miss_on_both_sides(
    store: MemoryStore, shared_valkey: ValkeyServer
) -> None:
    """A key replaced at once. During the rollout each side reads the database."""
    async with (
        replicas(store, shared_valkey.url, count=1, values=values(SECRET)) as (one,),
        replicas(store, shared_valkey.url, count=1, values=values(OTHER)) as (other,),
    ):
        for number, replica in enumerate((one, other, one), start=1):
            replica.directory.flush()
            assert (await replica.found()).roles == {"user"}
            assert len(store.asked) == number
            await until(lambda: held_or_nothing(shared_valkey))
        assert rejected(one) == rejected(other) == {"record": 1}
