"""The directory: which store answers, the number of queries, and the lifetime of results."""

import asyncio
import gc
import logging

import pytest

from gateway.errors import StorageUnavailable
from gateway.identity.directory import ABSENT, NEGATIVE_TTL, Directory, LocalFeed
from gateway.identity.principal import Principal, PrincipalFactory
from gateway.identity.user import Claims, UserRecord
from gateway.settings.model import IdentitySettings
from tests.identity.stores import Clock, MemoryStore, directory_of, record, settle


class Feed:
    """A change feed with a manual connection state."""

    def __init__(self, *, connected: bool = True) -> None:
        self.connected = connected

    async def announce(self, user_id: str, changed: UserRecord | None) -> None:
        raise AssertionError("nothing changes here")


class Shared:
    """A shared cache in this process. Records are stored with the time of their database read."""

    def __init__(self, clock: Clock, ttl: float = 60.0) -> None:
        self.kept: dict[str, tuple[UserRecord, float]] = {}
        self.clock = clock
        self.ttl = ttl
        self.asked = 0
        self.hangs = False

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        self.asked += 1
        if user_id not in self.kept:
            return None
        found, asked_at = self.kept[user_id]
        return found, asked_at + self.ttl - self.clock()

    async def put(self, kept: UserRecord, *, age: float) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        self.kept[kept.id] = (kept, self.clock() - age)


def claims(session: str = "s1") -> Claims:
    return Claims("u1", session, 2e9, 1e9, "j", "gateway")


async def found(directory: Directory, user_id: str = "u1") -> Principal:
    principal = await directory.principal(user_id)
    assert principal is not None
    return principal


# ---- the local cache


async def test_a_user_is_asked_for_once_and_known_from_then_on() -> None:
    store = MemoryStore(record())
    directory = directory_of(store)
    assert directory.cached("u1") is None
    principal = await found(directory)
    assert directory.cached("u1") is principal
    assert await directory.principal("u1") is principal
    assert store.asked == ["u1"]


async def test_a_record_is_believed_for_its_lifetime_counted_from_the_question() -> None:
    clock = Clock()
    store = MemoryStore(record())
    directory = directory_of(store, ttl=60.0, clock=clock)
    store.answering.clear()
    asking = asyncio.create_task(directory.principal("u1"))
    await settle()
    clock.now += 10  # the database takes 10 seconds
    store.answering.set()
    await asking
    clock.now += 49.9
    assert directory.cached("u1") is not None
    clock.now += 0.1
    assert directory.cached("u1") is None
    await directory.principal("u1")
    assert len(store.asked) == 2


async def test_that_there_is_no_such_user_is_believed_for_a_moment_only() -> None:
    clock = Clock()
    store = MemoryStore()
    directory = directory_of(store, clock=clock)
    assert await directory.principal("u1") is None
    assert directory.cached("u1") is ABSENT
    assert await directory.principal("u1") is None
    assert len(store.asked) == 1
    clock.now += NEGATIVE_TTL
    assert directory.cached("u1") is None


async def test_absence_is_never_believed_longer_than_a_record_would_be() -> None:
    clock = Clock()
    directory = directory_of(MemoryStore(), ttl=0.5, clock=clock)
    await directory.principal("u1")
    clock.now += 0.5
    assert directory.cached("u1") is None


async def test_a_newly_registered_user_is_not_hidden_by_an_older_lookup() -> None:
    store = MemoryStore()
    directory = directory_of(store)
    assert await directory.principal("u1") is None
    store.users["u1"] = record()
    await LocalFeed(directory).announce("u1", record())
    assert (await found(directory)).id == "u1"


async def test_no_more_users_are_kept_than_asked_for_and_the_busy_ones_stay() -> None:
    store = MemoryStore(*(record(f"u{number}") for number in range(500)))
    directory = directory_of(store, entries=20)
    await directory.principal("u0")
    for number in range(1, 500):
        await directory.principal(f"u{number}")
        assert directory.cached("u0") is not None
    kept = [number for number in range(500) if directory.cached(f"u{number}")]
    assert 10 <= len(kept) <= 20
    assert store.asked.count("u0") == 1


async def test_expired_entries_are_dropped_even_from_a_cache_with_free_capacity() -> None:
    clock = Clock()
    store = MemoryStore(*(record(f"expired{number}") for number in range(90)), *(record(f"later{n}") for n in range(3)))
    directory = directory_of(store, ttl=60.0, clock=clock)
    for number in range(90):
        await directory.principal(f"expired{number}")
    for number in range(3):
        clock.now += 61
        await directory.principal(f"later{number}")
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Principal and each.id.startswith("expired")]


# ---- one query for concurrent lookups


async def test_concurrent_lookups_share_one_query() -> None:
    store = MemoryStore(record(), record("u2"))
    directory = directory_of(store)
    answers = await asyncio.gather(*(directory.principal("u1") for _ in range(50)), directory.principal("u2"))
    assert sorted(store.asked) == ["u1", "u2"]
    assert len(set(map(id, answers[:50]))) == 1


async def test_a_cancelled_lookup_does_not_cancel_the_others() -> None:
    store = MemoryStore(record())
    store.answering.clear()
    directory = directory_of(store)
    asking = [asyncio.create_task(directory.principal("u1")) for _ in range(3)]
    await settle()
    asking[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking[0]
    store.answering.set()
    assert {principal.id for principal in await asyncio.gather(*asking[1:]) if principal} == {"u1"}
    assert store.asked == ["u1"]


async def test_the_result_of_a_lookup_without_waiting_callers_is_cached() -> None:
    store = MemoryStore(record())
    store.answering.clear()
    directory = directory_of(store)
    asking = asyncio.create_task(directory.principal("u1"))
    await settle()
    asking.cancel()
    store.answering.set()
    await settle()
    assert directory.cached("u1") is not None


async def test_a_failed_query_fails_all_that_share_it_and_is_not_cached() -> None:
    store = MemoryStore(record())
    store.fail()
    store.answering.clear()
    directory = directory_of(store)
    asking = [asyncio.create_task(directory.principal("u1")) for _ in range(3)]
    await settle()
    store.answering.set()
    failures = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["database: out of order"] * 3
    assert all(isinstance(failure, StorageUnavailable) for failure in failures)
    assert len(set(map(id, failures))) == 3  # tasks must not share one traceback
    store.failure = None
    assert (await found(directory)).id == "u1"
    assert len(store.asked) == 2


async def test_an_unexpected_error_reaches_the_waiting_callers_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore(record())
    store.failure = ZeroDivisionError()
    directory = directory_of(store)
    with pytest.raises(ZeroDivisionError):
        await directory.principal("u1")
    store.answering.clear()
    abandoned = asyncio.create_task(directory.principal("u1"))
    await settle()
    abandoned.cancel()
    store.answering.set()
    await settle()
    with caplog.at_level(logging.ERROR, "asyncio"):
        gc.collect()
    assert caplog.records == []
    assert directory.cached("u1") is None


async def test_known_users_are_served_while_the_database_is_out_and_others_are_not() -> None:
    clock = Clock()
    store = MemoryStore(record(), record("u2"))
    directory = directory_of(store, clock=clock)
    await directory.principal("u1")
    store.fail()
    assert (await found(directory)).id == "u1"
    with pytest.raises(StorageUnavailable):
        await directory.principal("u2")
    clock.now += 61
    with pytest.raises(StorageUnavailable):
        await directory.principal("u1")


async def test_closing_cancels_running_queries_and_fails_the_waiting_callers() -> None:
    store = MemoryStore(record())
    store.answering.clear()
    directory = directory_of(store)
    asking = asyncio.create_task(directory.principal("u1"))
    await settle()
    await directory.close()
    with pytest.raises(StorageUnavailable, match="shutting down"):
        await asking
    await directory.close()


# ---- changes


async def test_a_change_announced_here_counts_at_once() -> None:
    store = MemoryStore(record())
    directory = directory_of(store)
    assert (await found(directory)).is_active
    await LocalFeed(directory).announce("u1", store.change("u1", is_active=False))
    assert directory.cached("u1") is None
    assert not (await found(directory)).is_active


async def test_a_deleted_user_is_forgotten() -> None:
    store = MemoryStore(record())
    directory = directory_of(store)
    await directory.principal("u1")
    del store.users["u1"]
    await LocalFeed(directory).announce("u1", None)
    assert await directory.principal("u1") is None


async def test_a_feed_without_listeners_is_no_error() -> None:
    feed = LocalFeed()
    await feed.announce("u1", None)
    assert feed.connected


@pytest.mark.parametrize(("version", "stays"), [(1, True), (2, True), (3, False), (None, False)])
async def test_a_copy_goes_only_when_it_is_older_than_the_change(version: int | None, stays: bool) -> None:
    directory = directory_of(MemoryStore(record(version=2)))
    await directory.principal("u1")
    directory.forget("u1", version)
    assert (directory.cached("u1") is not None) is stays


async def test_a_copy_of_the_old_generation_can_be_forgotten_too() -> None:
    store = MemoryStore(*(record(f"u{number}") for number in range(20)))
    directory = directory_of(store, entries=20)
    for number in range(15):
        await directory.principal(f"u{number}")
    directory.forget("u0", 2)
    assert directory.cached("u0") is None
    directory.forget("never seen", 2)


async def test_a_lookup_overtaken_by_a_change_serves_only_earlier_callers() -> None:
    store = MemoryStore(record())
    store.answering.clear()
    directory = directory_of(store)
    early = asyncio.create_task(directory.principal("u1"))
    await settle()
    directory.forget("u1", store.change("u1", is_active=False).version)
    late = asyncio.create_task(directory.principal("u1"))
    await settle()
    store.answering.set()
    before, after = await early, await late
    assert before is not None and before.is_active
    assert after is not None and not after.is_active
    assert directory.cached("u1") is after
    assert store.asked == ["u1", "u1"]


async def test_an_overtaken_reader_that_comes_last_overwrites_nothing() -> None:
    store = MemoryStore(record())
    store.answering.clear()
    directory = directory_of(store)
    early = asyncio.create_task(directory.principal("u1"))
    await settle()
    slow, store.answering = store.answering, asyncio.Event()
    store.answering.set()
    directory.forget("u1", store.change("u1", roles=frozenset()).version)
    after = await found(directory)
    slow.set()
    await early
    assert directory.cached("u1") is after


async def test_changed_role_rules_apply_to_cached_users() -> None:
    store = MemoryStore(record())
    directory = directory_of(store)
    assert (await found(directory)).roles == {"user"}
    directory.renew(PrincipalFactory(IdentitySettings(), lambda roles: roles | {"implied"}))
    assert directory.cached("u1") is None
    assert (await found(directory)).roles == {"user", "implied"}


# ---- the shared cache and the feed


async def test_a_record_another_replica_has_read_is_taken_from_the_shared_cache() -> None:
    clock = Clock()
    store, shared = MemoryStore(record()), Shared(clock)
    one, other = (directory_of(store, shared=shared, feed=Feed(), clock=clock) for _ in range(2))
    await one.principal("u1")
    await settle()
    assert (await found(other)).id == "u1"
    assert store.asked == ["u1"]


async def test_the_age_in_the_shared_cache_counts_too() -> None:
    clock = Clock()
    store, shared = MemoryStore(record()), Shared(clock)
    one, other = (directory_of(store, shared=shared, feed=Feed(), clock=clock) for _ in range(2))
    await one.principal("u1")
    await settle()
    clock.now += 40
    await other.principal("u1")
    clock.now += 19.9
    assert other.cached("u1") is not None
    clock.now += 0.1
    assert other.cached("u1") is None


async def test_the_shared_cache_is_filled_behind_the_answer_and_with_its_age() -> None:
    clock = Clock()
    store, shared = MemoryStore(record()), Shared(clock)
    directory = directory_of(store, shared=shared, feed=Feed(), clock=clock)
    store.answering.clear()
    asking = asyncio.create_task(directory.principal("u1"))
    await settle()
    clock.now += 5
    store.answering.set()
    await asking
    await settle()
    assert shared.kept["u1"] == (record(), 1000.0)


async def test_a_shared_cache_that_hangs_on_writing_delays_no_request() -> None:
    clock = Clock()
    shared = Shared(clock)
    shared.hangs = True
    directory = directory_of(MemoryStore(record()), shared=shared, feed=Feed(), clock=clock)
    async with asyncio.timeout(1):
        assert (await found(directory)).id == "u1"
    await directory.close()


async def test_absence_is_never_shared() -> None:
    clock = Clock()
    shared = Shared(clock)
    directory = directory_of(MemoryStore(), shared=shared, feed=Feed(), clock=clock)
    assert await directory.principal("u1") is None
    await settle()
    assert shared.kept == {}


async def test_while_changes_do_not_arrive_every_request_asks_the_database() -> None:
    clock = Clock()
    store, shared, feed = MemoryStore(record()), Shared(clock), Feed(connected=False)
    shared.kept["u1"] = (record(roles=frozenset(["admin"])), clock())
    directory = directory_of(store, shared=shared, feed=feed, clock=clock)
    for _ in range(3):
        assert (await found(directory)).roles == {"user"}
        assert directory.cached("u1") is None
    assert len(store.asked) == 3
    assert shared.asked == 0
    assert shared.kept["u1"][0].roles == {"admin"}


async def test_a_connection_lost_while_a_query_runs_leaves_no_copy() -> None:
    clock = Clock()
    store, shared, feed = MemoryStore(record()), Shared(clock), Feed()
    directory = directory_of(store, shared=shared, feed=feed, clock=clock)
    store.answering.clear()
    asking = asyncio.create_task(directory.principal("u1"))
    await settle()
    feed.connected = False
    directory.flush()
    feed.connected = True
    directory.flush()
    store.answering.set()
    await asking
    await settle()
    assert directory.cached("u1") is None
    assert shared.kept == {}


async def test_after_a_flush_nothing_read_before_it_is_believed_wherever_it_lies() -> None:
    clock = Clock()
    store, shared = MemoryStore(record()), Shared(clock)
    directory = directory_of(store, shared=shared, feed=Feed(), clock=clock)
    await directory.principal("u1")
    await settle()
    store.change("u1", is_active=False)  # the announcement is lost
    clock.now += 1
    directory.flush()
    assert directory.cached("u1") is None
    clock.now += 1
    assert not (await found(directory)).is_active
    await settle()
    assert shared.kept["u1"] == (store.users["u1"], clock())
    other = directory_of(store, shared=shared, feed=Feed(), clock=clock)
    other.flush()
    assert not (await found(other)).is_active
    assert len(store.asked) == 2  # records read after the flush are valid


# ---- permissions of a principal


async def test_a_disabled_or_missing_user_is_refused() -> None:
    active = await found(directory_of(MemoryStore(record())))
    disabled = await found(directory_of(MemoryStore(record(is_active=False))))
    assert Directory.check(active, claims()) is None
    for nobody in (disabled, None, ABSENT):
        refusal = Directory.check(nobody, claims())
        assert refusal is not None
        assert (refusal.code, refusal.presented) == ("user_inactive", True)


async def test_a_token_of_an_ended_session_is_refused() -> None:
    principal = await found(directory_of(MemoryStore(record(ended_sessions=frozenset(["s1", "s2"])))))
    assert Directory.check(principal, claims("s3")) is None
    refusal = Directory.check(principal, claims("s1"))
    assert refusal is not None
    assert (refusal.code, refusal.presented) == ("token_revoked", True)


async def test_a_disabled_user_is_reported_even_if_the_session_has_ended() -> None:
    disabled = record(is_active=False, ended_sessions=frozenset(["s1"]))
    refusal = Directory.check(await found(directory_of(MemoryStore(disabled))), claims("s1"))
    assert refusal is not None
    assert refusal.code == "user_inactive"
