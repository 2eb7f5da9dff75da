"""The change feed over Redis: published messages, pending messages, and calls of the listener."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.identity.user import UserRecord
from gateway.storage.redis import change_feed
from gateway.storage.redis.change_feed import RedisFeed
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.user_records import RedisRecords
from tests.identity.stores import record
from tests.storage.authentic import CHANNEL, INSTALLATION, authentic_text, message, user_key, values
from tests.support.waiting import promised, until


class Listener:
    """Records its calls."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.failure: Exception | None = None

    def forget(self, user_id: str, version: int | None) -> None:
        self.heard.append((user_id, version))
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def suspend(self) -> None:
        self.heard.append("suspend")

    def flush(self) -> None:
        self.heard.append("flush")


class FeedHarness:
    """A feed with its link and a recording listener."""

    def __init__(self, url: str, *, ttl: float = 60.0) -> None:
        self.link = RedisLink(url, INSTALLATION)
        self.records = RedisRecords(self.link, values(), ttl=ttl)
        self.feed = RedisFeed(self.link, self.records)
        self.listener = Listener()

    async def open(self, *, listening: bool = True) -> None:
        await self.link.open()
        if listening:
            await self.feed.open(self.listener)

    async def close(self) -> None:
        await self.feed.close()
        await self.link.close()

    async def kept(self, user_id: str = "u1") -> UserRecord | None:
        (shared,) = await self.records.load([user_id])
        return shared.record if shared else None


@asynccontextmanager
async def harness(url: str, *, listening: bool = True, ttl: float = 60.0) -> AsyncIterator[FeedHarness]:
    made = FeedHarness(url, ttl=ttl)
    await made.open(listening=listening)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def at(shared_valkey: ValkeyServer) -> AsyncIterator[FeedHarness]:
    async with harness(shared_valkey.url) as made:
        yield made


def publish(server: ValkeyServer, message: bytes) -> None:
    with server.client() as client:
        client.publish(CHANNEL, message)


# ---- publishing


async def test_a_change_is_announced_here_at_once_and_elsewhere_when_the_call_returns(
    at: FeedHarness, shared_valkey: ValkeyServer
) -> None:
    async with harness(shared_valkey.url) as other:
        announcing = asyncio.create_task(at.feed.announce("u1", record(version=2)))
        await asyncio.sleep(0)
        assert at.listener.heard == [("u1", 2)]
        await announcing
        await until(lambda: other.listener.heard == [("u1", 2)], within=1.0)
        assert await other.kept() == record(version=2)
        assert at.feed.undelivered == 0


async def test_a_deletion_is_announced_without_a_version(at: FeedHarness) -> None:
    await at.feed.announce("u1", None)
    assert at.listener.heard[0] == ("u1", None)
    assert await at.kept() is None


async def test_a_process_that_only_changes_needs_no_subscription(at: FeedHarness, shared_valkey: ValkeyServer) -> None:
    async with harness(shared_valkey.url, listening=False) as command:
        assert not command.feed.connected
        await command.feed.announce("u1", record(version=4))
        assert command.feed.undelivered == 0
    await until(lambda: at.listener.heard == [("u1", 4)], within=1.0)


async def test_a_change_whose_caller_was_cancelled_is_announced(at: FeedHarness, shared_valkey: ValkeyServer) -> None:
    async with harness(shared_valkey.url) as other:
        announcing = asyncio.create_task(at.feed.announce("u1", record(version=2)))
        await asyncio.sleep(0)
        announcing.cancel()
        await until(lambda: other.listener.heard == [("u1", 2)], within=promised(0.5))


async def test_of_several_changes_of_one_user_the_latest_is_announced(valkey: ValkeyServer) -> None:
    async with harness(valkey.url) as at:
        valkey.kill()
        await until(lambda: not at.feed.connected)
        for version in (3, 5, 4):
            await at.feed.announce("u1", record(version=version))
        await at.feed.announce("u2", record("u2", version=9))
        await at.feed.announce("u2", None)
        await at.feed.announce("u2", record("u2", version=10))
        assert at.feed.undelivered == 2
        valkey.start()
        await until(lambda: at.feed.undelivered == 0)
        assert await at.kept("u1") == record(version=5)
        assert await at.kept("u2") is None


async def test_concurrent_changes_of_one_user_are_announced_before_their_calls_return(at: FeedHarness) -> None:
    started = time.monotonic()
    await asyncio.gather(*(at.feed.announce("u1", record(version=version)) for version in range(1, 30)))
    assert time.monotonic() - started < promised(0.2)
    assert await at.kept() == record(version=29)
    assert at.feed.undelivered == 0


async def test_a_change_during_the_announcement_of_the_last_is_announced_too(at: FeedHarness) -> None:
    for version in range(1, 40, 2):
        first = asyncio.create_task(at.feed.announce("u1", record(version=version)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first one is in progress
        await at.feed.announce("u1", record(version=version + 1))
        await first
        assert await at.kept() == record(version=version + 1)
        assert at.feed.undelivered == 0


async def test_a_change_waits_at_most_250_ms_for_its_announcement(valkey: ValkeyServer) -> None:
    async with harness(valkey.url) as at:
        valkey.pause()
        started = time.monotonic()
        await asyncio.gather(*(at.feed.announce(f"u{number}", record(f"u{number}")) for number in range(100)))
        assert time.monotonic() - started < promised(0.6)
        started = time.monotonic()
        await at.feed.announce("u1", record(version=2))
        assert time.monotonic() - started < promised(0.2)
        valkey.resume()
        await until(lambda: at.feed.undelivered == 0)


async def test_unannounced_changes_are_dropped_when_no_copy_can_exist(valkey: ValkeyServer) -> None:
    async with harness(valkey.url, ttl=0.5) as at:
        valkey.kill()
        await until(lambda: not at.feed.connected)
        await at.feed.announce("u1", record(version=2))
        await asyncio.sleep(0.5)
        valkey.start()
        with valkey.client().pubsub() as watcher:
            watcher.subscribe(CHANNEL)
            await until(lambda: at.feed.undelivered == 0)
            assert [
                message
                for message in iter(lambda: watcher.get_message(timeout=0.05), None)
                if message["type"] == "message"
            ] == []
        with valkey.client() as client:
            assert not client.exists(user_key("u1"))


async def test_the_number_of_unannounced_changes_is_bounded(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "MAX_UNDELIVERED", 10)
    async with harness(valkey.url) as at:
        valkey.kill()
        await until(lambda: not at.feed.connected)
        for number in range(30):
            await at.feed.announce(f"u{number}", record(f"u{number}"))
        assert at.feed.undelivered == 10
        valkey.start()
        await until(lambda: at.feed.undelivered == 0)
        assert [number for number in range(30) if await at.kept(f"u{number}")] == list(range(20, 30))


async def test_a_refusal_is_tried_again(valkey: ValkeyServer) -> None:
    async with harness(valkey.url) as at:
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-publish")
            await at.feed.announce("u1", record(version=2))
            assert at.feed.undelivered == 1
            client.execute_command("ACL", "SETUSER", "default", "+publish")
        await until(lambda: at.feed.undelivered == 0, within=3.0)


async def test_closing_announces_the_remaining_changes_if_possible(shared_valkey: ValkeyServer) -> None:
    at = FeedHarness(shared_valkey.url)
    await at.open()
    announcing = asyncio.create_task(at.feed.announce("u1", record(version=2)))
    await asyncio.sleep(0)
    await at.feed.close()
    await announcing
    assert await at.kept() == record(version=2)
    await at.link.close()


async def test_closing_gives_up_on_a_hung_server(valkey: ValkeyServer) -> None:
    at = FeedHarness(valkey.url)
    await at.open()
    valkey.pause()
    announcing = asyncio.create_task(at.feed.announce("u1", record(version=2)))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    await at.close()
    assert time.monotonic() - started < 1.2
    await announcing


async def test_a_change_during_an_announcement_does_not_wait_for_the_next_heartbeat(at: FeedHarness) -> None:
    for version in range(1, 60):
        telling = asyncio.create_task(at.feed.announce("u1", record(version=version)))
        for _ in range(version):  # reach the sender at every step of its way
            await asyncio.sleep(0)
        started = time.monotonic()
        await at.feed.announce("u2", record("u2", version=version))
        assert time.monotonic() - started < promised(0.15)
        assert await at.kept("u2") == record("u2", version=version)
        await telling


# ---- listening


async def test_announcements_of_others_are_received(at: FeedHarness, shared_valkey: ValkeyServer) -> None:
    publish(shared_valkey, message("forget", "a|b, 'c'", 12))
    publish(shared_valkey, message("forget", "u2", None))
    await until(lambda: at.listener.heard == [("a|b, 'c'", 12), ("u2", None)])


async def test_how_long_a_change_took_to_arrive_is_measured(at: FeedHarness, shared_valkey: ValkeyServer) -> None:
    def seen() -> tuple[float, float]:
        (counts,) = (value for name, _, value in at.feed.samples() if name == "gateway_revocation_lag_seconds")
        assert isinstance(counts, list)
        return sum(counts[:-1]), counts[-1]

    await at.feed.announce("u1", None)
    await until(lambda: seen()[0] == 1)
    assert seen()[1] < 1.0
    before = seen()[1]
    told_at = int((time.time() - 3) * 1000)  # this machine's clock is the server's
    publish(shared_valkey, message("forget", "u1", 2, told_at))
    await until(lambda: seen()[0] == 2)
    assert 2.9 < seen()[1] - before < 10.0


@pytest.mark.parametrize("text", ["{}", "[]", "null", '["forget", "u1"]', '["forget", "u1", "2"]', '["drop", "u1", 2]'])
async def test_a_malformed_message_voids_all_copies(at: FeedHarness, shared_valkey: ValkeyServer, text: str) -> None:
    publish(shared_valkey, authentic_text(text))
    await until(lambda: at.listener.heard == ["flush"])
    assert at.feed.connected


async def test_a_first_connection_voids_nothing_and_a_second_one_everything(valkey: ValkeyServer) -> None:
    async with harness(valkey.url) as at:
        assert at.feed.connected
        assert at.listener.heard == []
        valkey.kill()
        await until(lambda: not at.feed.connected)
        assert at.listener.heard == ["flush"]
        valkey.start()
        await until(lambda: at.feed.connected)
        assert at.listener.heard == ["flush", "flush"]


async def test_a_connection_that_was_not_there_at_the_start_counts_as_lost(valkey: ValkeyServer) -> None:
    valkey.kill()
    async with harness(valkey.url) as at:
        assert not at.feed.connected
        valkey.start()
        await until(lambda: at.feed.connected)
        assert at.listener.heard == ["flush"]


async def test_a_server_that_hangs_is_noticed_within_a_second(valkey: ValkeyServer) -> None:
    async with harness(valkey.url) as at:
        valkey.pause()
        assert await until(lambda: not at.feed.connected) < 1.0
        valkey.resume()
        await until(lambda: at.feed.connected)


async def test_a_quiet_channel_is_a_good_one(at: FeedHarness) -> None:
    await asyncio.sleep(1.6)  # longer than the silence after which the feed reconnects
    assert at.feed.connected
    assert at.listener.heard == []


async def test_a_process_that_was_busy_itself_does_not_take_redis_to_be_out(at: FeedHarness) -> None:
    await asyncio.sleep(0.4)
    for _ in range(4):
        time.sleep(0.7)  # blocks every other task
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert at.feed.connected
    assert at.listener.heard == []


async def test_a_connection_that_the_server_closes_is_made_again(at: FeedHarness, shared_valkey: ValkeyServer) -> None:
    with shared_valkey.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: not at.feed.connected)
    await until(lambda: at.feed.connected)
    assert at.listener.heard == ["flush", "flush"]
    publish(shared_valkey, message("forget", "u1", 2))
    await until(lambda: at.listener.heard[-1] == ("u1", 2))


async def test_a_listener_that_fails_is_not_trusted_until_it_reconnects(
    at: FeedHarness, shared_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    at.listener.failure = ZeroDivisionError()
    publish(shared_valkey, message("forget", "u1", 2))
    await until(lambda: at.listener.heard == [("u1", 2), "flush", "flush"])
    await until(lambda: at.feed.connected)
    assert "could not be followed" in caplog.text
