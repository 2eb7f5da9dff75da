"""User records in Redis: written values, accepted values, and the precedence of the newest."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stores.valkey import ValkeyServer, running
from gateway.identity.user import UserRecord
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.encoding import NotAuthentic
from gateway.storage.redis.user_cache import RedisCache
from gateway.storage.redis.user_records import RedisRecords, Write
from tests.identity.stores import CREATED, record
from tests.storage.authentic import CHANNEL, INSTALLATION, signed, user_key, values
from tests.support.waiting import promised, until

TTL = 60.0


class CachedRecords:
    """Records and the cache over them on one link."""

    def __init__(self, server: ValkeyServer, *, ttl: float = TTL) -> None:
        self.server = server
        self.link = RedisLink(server.url, INSTALLATION)
        self.records = RedisRecords(self.link, values(), ttl=ttl)
        self.cache = RedisCache(self.records)

    async def store(
        self, kept: UserRecord | None, *, age: float = 0.0, user_id: str = "u1", message: bytes = b""
    ) -> None:
        await self.records.store([Write(user_id, kept, time.monotonic() - age, message)])

    def rejected(self) -> dict[str, float]:
        """The number of rejected values of each kind."""
        return {
            sample.labels[0]: sample.value for sample in self.records.samples() if not isinstance(sample.value, list)
        }

    async def found(self, user_id: str = "u1") -> UserRecord | None:
        (shared,) = await self.records.load([user_id])
        return None if shared is None else shared.record


@pytest.fixture
async def cached(shared_valkey: ValkeyServer) -> AsyncIterator[CachedRecords]:
    made = CachedRecords(shared_valkey)
    await made.link.open()
    yield made
    await made.link.close()


@pytest.mark.parametrize(
    "kept",
    [
        record(),
        record(is_active=False, roles=frozenset(), ended_sessions=frozenset(["s1", "s2"]), version=7),
        record(email="", roles=frozenset(["a,b", "zoë", "x y"])),
        record("idp|ümlaut"),
        record(created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        record(version=(1 << 53) - 2),
    ],
    ids=range(6),
)
async def test_a_record_comes_back_as_it_was(cached: CachedRecords, kept: UserRecord) -> None:
    await cached.store(kept, user_id=kept.id)
    assert await cached.found(kept.id) == kept


async def test_a_missing_user_is_not_found(cached: CachedRecords) -> None:
    assert await cached.records.load(["u1", "u2"]) == [None, None]
    assert await cached.cache.get("u1") is None


@pytest.mark.parametrize(("first", "then", "stays"), [(1, 2, 2), (2, 1, 2), (9, 10, 10), (10, 9, 10), (3, 3, 3)])
async def test_the_newer_version_stays_in_any_order(cached: CachedRecords, first: int, then: int, stays: int) -> None:
    await cached.store(record(version=first))
    await cached.store(record(version=then))
    found = await cached.found()
    assert found is not None and found.version == stays


async def test_a_deleted_user_stays_deleted(cached: CachedRecords) -> None:
    await cached.store(record(version=5))
    await cached.store(None)
    assert await cached.found() is None
    await cached.store(record(version=1_000_000))
    assert await cached.found() is None


async def test_many_are_written_and_read_in_one_round_trip(cached: CachedRecords) -> None:
    users = [record(f"u{number}", version=number + 1) for number in range(300)]
    await cached.records.store([Write(user.id, user, time.monotonic()) for user in users])
    before = cached.server.client().info("stats")["total_commands_processed"]
    found = await cached.records.load([*(user.id for user in users), "nobody"])
    assert [each.record for each in found if each is not None] == users
    assert found[-1] is None
    # Commands inside the script count too.
    assert cached.server.client().info("stats")["total_commands_processed"] - before < 610
    assert await cached.records.load([]) == []


async def test_a_message_is_published_with_the_record(cached: CachedRecords) -> None:
    connection = await cached.link.subscribe(CHANNEL)
    await cached.store(record(), message=b"hello")
    await cached.store(record())
    await cached.store(None, message=b"gone")
    for message in (b"hello", b"gone"):
        assert await connection.read_response(timeout=1) == [b"message", CHANNEL.encode(), message]
    await connection.disconnect()


async def test_ids_that_look_alike_have_keys_of_their_own(cached: CachedRecords) -> None:
    """CVE-2026-33729: colliding cache keys."""
    ids = ["a:b", "a", "b", "a|b", "a b", "user:a", "{a}b", "a{b}", "A", "ａ", "a\u0301", "á", "*", "a*", "[a]"]
    await cached.records.store([Write(name, record(name), time.monotonic()) for name in ids])
    assert [shared.record.id for shared in await cached.records.load(ids) if shared] == ids
    assert len(set(map(cached.records.key, ids))) == len(ids)


async def test_every_reader_knows_the_age_of_a_record(cached: CachedRecords) -> None:
    await cached.store(record(), age=10.0)
    (shared,) = await cached.records.load(["u1"])
    assert shared is not None
    assert 10.0 <= shared.age < 10.5
    remaining = await cached.cache.get("u1")
    assert remaining is not None
    assert 49.5 < remaining[1] <= 50.0


async def test_a_record_is_gone_when_its_time_is_over(shared_valkey: ValkeyServer) -> None:
    cached = CachedRecords(shared_valkey, ttl=0.3)
    await cached.link.open()
    await cached.store(record(), age=0.1)
    assert await cached.found() == record()
    with shared_valkey.client() as client:
        await until(lambda: client.exists(user_key("u1")) == 0)
    await cached.store(record(), age=0.4)
    assert await cached.found() is None
    await cached.link.close()


async def test_replicas_with_different_lifetimes_each_use_their_own(shared_valkey: ValkeyServer) -> None:
    long, short = CachedRecords(shared_valkey, ttl=600.0), CachedRecords(shared_valkey, ttl=5.0)
    for cached in (long, short):
        await cached.link.open()
    await long.store(record(), age=2.0)
    for cached, least in ((long, 597.5), (short, 2.5)):
        found = await cached.cache.get("u1")
        assert found is not None
        assert least < found[1] <= least + 0.5
    await long.store(record(), age=6.0)
    assert await short.cache.get("u1") is None
    for cached in (long, short):
        await cached.link.close()


def value(*, version: object = 1, lifetime: object = 60_000, asked: object = None, **changes: Any) -> bytes:
    """An authentic value, valid except for the changes."""
    members = {
        "id": "u1",
        "email": "u1@example.com",
        "active": True,
        "roles": ["user"],
        "created": CREATED.isoformat(),
        "ended": [],
        "verified": False,
        "password": True,
    }
    members = {name: each for name, each in (members | changes).items() if each is not ...}
    asked = round(time.time() * 1000) if asked is None else asked
    return signed(KEY, version, f"{lifetime} {asked} {json.dumps(members)}")


KEY = user_key("u1")
NOW = round(time.time() * 1000)
OF_ANOTHER_RELEASE = {
    "no JSON": signed(KEY, 1, f"60000 {NOW} "),
    "fewer parts": signed(KEY, 1, "60000"),
    "null": signed(KEY, 1, f"60000 {NOW} null"),
    "a list": signed(KEY, 1, f"60000 {NOW} []"),
    "a string": signed(KEY, 1, f'60000 {NOW} "u1"'),
    "bytes outside UTF-8": signed(KEY, 1, b'60000 1 {"id":"\xff"}'),
    "version no number": value(version="x"),
    "lifetime no number": value(lifetime="x"),
    "time no number": value(asked="x"),
    "id missing": value(id=...),
    "id a number": value(id=1),
    "email null": value(email=None),
    "active a number": value(active=1),
    "active text": value(active="true"),
    "active missing": value(active=...),
    "roles text": value(roles="admin"),
    "roles with a number": value(roles=["user", 1]),
    "roles missing": value(roles=...),
    "roles null": value(roles=None),
    "ended an object": value(ended={"s1": 1}),
    "created no time": value(created="yesterday"),
    "created a number": value(created=0),
    "created without a zone": value(created="2026-01-01T00:00:00"),
}


@pytest.mark.parametrize("case", OF_ANOTHER_RELEASE)
async def test_an_authentic_value_of_another_form_is_a_miss_and_is_replaced(cached: CachedRecords, case: str) -> None:
    with cached.server.client() as client:
        client.set(KEY, OF_ANOTHER_RELEASE[case], px=60_000)
    assert await cached.found() is None
    assert cached.rejected() == {}
    await cached.store(record(version=2))
    assert await cached.found() == record(version=2)


async def test_a_value_of_ours_is_one(cached: CachedRecords) -> None:
    with cached.server.client() as client:
        client.set(KEY, value(), px=60_000)
    assert await cached.found() == record()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.integers(0, 10**12))
def test_no_value_that_is_not_authentic_is_read(data: bytes, left: int) -> None:
    for content in (data, b"1 " + data, b"1 " + b"0" * 64 + b" " + data, value()[:-1] + data[:1] + data):
        with pytest.raises(NotAuthentic):
            values().read_record(KEY, content, left)


async def test_a_full_redis_drops_the_old_record_and_passes_the_message_on(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        cached = CachedRecords(server)
        await cached.link.open()
        await cached.store(record())
        connection = await cached.link.subscribe(CHANNEL)
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
            await cached.store(record(version=2, is_active=False), message=b"changed")
            assert await connection.read_response(timeout=1) == [b"message", CHANNEL.encode(), b"changed"]
            client.config_set("maxmemory", "0")
        assert await cached.found() is None
        await connection.disconnect()
        await cached.link.close()


# ---- the shared cache over it


async def test_askers_of_one_moment_ask_together(cached: CachedRecords) -> None:
    users = [record(f"u{number}") for number in range(500)]
    await cached.records.store([Write(user.id, user, time.monotonic()) for user in users])
    with cached.server.client() as client:
        before = client.info("commandstats")["cmdstat_eval"]["calls"]
        answers = await asyncio.gather(*(cached.cache.get(user.id) for user in users), cached.cache.get("nobody"))
        calls = client.info("commandstats")["cmdstat_eval"]["calls"] - before
    assert [answer[0] for answer in answers if answer] == users
    assert answers[-1] is None
    assert calls < 15


async def test_a_cancelled_lookup_does_not_disturb_the_others(cached: CachedRecords) -> None:
    await cached.store(record())
    asking = [asyncio.create_task(cached.cache.get("u1")) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, tuple) and answer[0] == record() for answer in answers[1:])


async def test_records_are_written_in_the_background(cached: CachedRecords) -> None:
    for number in range(300):
        await cached.cache.put(record(f"u{number}"), age=1.0)
    with cached.server.client() as client:
        await until(lambda: client.dbsize() == 300)
    found = await cached.cache.get("u299")
    assert found is not None and found[0] == record("u299")
    assert 58.0 < found[1] <= 59.0


async def test_a_redis_that_is_out_finds_nothing_and_keeps_nothing(valkey: ValkeyServer) -> None:
    cached = CachedRecords(valkey)
    await cached.link.open()
    valkey.pause()
    started = time.monotonic()
    assert await asyncio.gather(*(cached.cache.get(f"u{number}") for number in range(300))) == [None] * 300
    assert time.monotonic() - started < promised(0.6)
    for number in range(300):
        await cached.cache.put(record(f"u{number}"), age=0.0)
    valkey.restart()
    await until(lambda: cached.link.available)
    assert valkey.client().dbsize() == 0
    assert await cached.cache.get("u1") is None
    await cached.link.close()


async def test_an_unexpected_error_leaves_no_caller_waiting(
    cached: CachedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mistaken(user_ids: list[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cached.records, "load", mistaken)
    async with asyncio.timeout(1):
        assert await asyncio.gather(*(cached.cache.get("u1") for _ in range(200))) == [None] * 200
    monkeypatch.undo()
    await cached.store(record())
    assert await cached.cache.get("u1") is not None
