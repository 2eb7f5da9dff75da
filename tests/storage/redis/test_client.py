"""The Redis link: limits, circuit breaker, errors, and log messages."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from bench.stores.valkey import ValkeyServer, running
from gateway.errors import CannotStart, StorageUnavailable
from gateway.storage.redis.client import HEARTBEAT, LIMIT, RedisLink
from gateway.storage.redis.open_client import OpenClient, disconnect
from gateway.storage.redis.url import Client, parse_redis_address
from tests.storage.authentic import INSTALLATION
from tests.support.waiting import promised, until

Operation = Callable[[Client], Any]


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(url, INSTALLATION)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


def ping(client: Client) -> Any:
    return client.execute_command("PING")


async def out(link: RedisLink, operation: Operation = ping) -> StorageUnavailable:
    """The error of the link for a failing operation."""
    with pytest.raises(StorageUnavailable) as refused:
        await link.run(operation)
    assert refused.value.store == "redis"
    return refused.value


async def test_an_open_link_runs_operations(shared_valkey: ValkeyServer) -> None:
    link = RedisLink(shared_valkey.url, INSTALLATION)
    assert not link.available
    await out(link)
    await link.open()
    assert link.available
    assert await link.run(ping)
    await link.close()
    assert not link.available
    await out(link)


async def test_an_address_that_means_nothing_is_refused_at_once() -> None:
    with pytest.raises(CannotStart):
        RedisLink("redis://host:port", INSTALLATION)


async def test_a_server_that_is_not_there_at_the_start_is_no_error_and_is_found_later(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.kill()
    async with linked(valkey.url) as link:
        assert not link.available
        assert [entry.levelname for entry in caplog.records] == ["WARNING"]
        assert f"Redis at redis://127.0.0.1:{valkey.port} is down: no answer (ConnectionError: " in caplog.text
        assert "Check storage.redis" in caplog.text
        valkey.start()
        await until(lambda: link.available)
        assert await link.run(ping)


async def test_a_hung_server_is_waited_for_once_and_250_ms_at_most(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as link:
        valkey.pause()
        started = time.monotonic()
        assert "TimeoutError" in (await out(link)).reason
        assert LIMIT <= time.monotonic() - started < promised(0.5)
        for _ in range(100):
            started = time.monotonic()
            assert (await out(link)).reason.startswith("down (TimeoutError")
            assert time.monotonic() - started < promised(0.2)
        valkey.resume()
        await until(lambda: link.available)
        assert await link.run(ping)


async def test_many_operations_on_a_hung_server_fail_together(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as link:
        valkey.pause()
        started = time.monotonic()
        await asyncio.gather(*(out(link) for _ in range(100)))
        assert time.monotonic() - started < 2.0  # the server stays hung for longer


async def test_a_server_that_hangs_while_unused_is_noticed_too(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as link:
        valkey.pause()
        await until(lambda: not link.available, within=HEARTBEAT + LIMIT + 0.5)


async def test_a_restarted_server_is_used_again(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as link:
        for _ in range(3):
            await asyncio.gather(*(link.run(ping) for _ in range(10)))  # several connections, all dead in a moment
            valkey.restart()
            await until(lambda: link.available)
            with contextlib.suppress(StorageUnavailable):  # one may not have noticed yet
                await link.run(ping)
            await until(lambda: link.available)
            for _ in range(10):
                assert await link.run(ping)


async def test_a_wait_in_the_queue_does_not_count_against_the_server(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as link:

        async def slow(client: Client) -> None:
            await asyncio.sleep(0.2)

        outcomes = await asyncio.gather(*(link.run(slow) for _ in range(90)), return_exceptions=True)
        assert 1 <= outcomes.count(None) <= 32
        assert link.available


def every(kind: type[BaseException]) -> list[type[BaseException]]:
    """A class and all its loaded subclasses."""
    found = [kind]
    for each in kind.__subclasses__():
        found += every(each)
    return list(dict.fromkeys(found))


NO_WORK = (ReadOnlyError, OutOfMemoryError, NoPermissionError, ClusterDownError)
FOREIGN = [
    *every(RedisError),
    *every(RedisClusterException),
    OSError,
    TimeoutError,
    ConnectionResetError,
    EOFError,
    RuntimeError,
]


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
async def test_no_error_of_the_driver_gets_past_the_link(
    shared_valkey: ValkeyServer, kind: type[BaseException]
) -> None:
    error = kind.__new__(kind)
    error.args = ("as raised in a test",)

    async def fail(client: Client) -> None:
        raise error

    async with linked(shared_valkey.url) as link:
        assert kind.__name__ in (await out(link, fail)).reason
        # A server that refuses a command works; every other error means that it does not.
        is_refusal = issubclass(kind, ResponseError) and not issubclass(kind, NO_WORK)
        assert link.available is (is_refusal or kind is TimeoutError)
        await until(lambda: link.available)


async def test_a_mistake_of_the_caller_is_not_taken_for_an_outage(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as link:

        async def mistaken(client: Client) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await link.run(mistaken)
        assert link.available


async def test_refusals_are_logged_now_and_then_and_not_each(
    shared_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    link = RedisLink(shared_valkey.url, INSTALLATION, clock=lambda: now[0])
    await link.open()
    for _ in range(5):
        await out(link, lambda client: client.execute_command("NONSENSE"))
    assert caplog.text.count("refuses a command (ResponseError: unknown command") == 1
    now[0] = 61.0
    await out(link, lambda client: client.execute_command("NONSENSE"))
    assert caplog.text.count("refuses a command (ResponseError: unknown command") == 2
    await link.close()


async def test_listeners_hear_of_every_return_and_of_every_heartbeat(valkey: ValkeyServer) -> None:
    link = RedisLink(valkey.url, INSTALLATION)
    heard: list[float] = []
    link.listen(lambda: heard.append(time.monotonic()))
    await link.open()
    assert len(heard) == 1
    await until(lambda: len(heard) == 2, within=2 * HEARTBEAT)
    valkey.kill()
    await until(lambda: not link.available, within=2 * HEARTBEAT)
    count = len(heard)
    valkey.start()
    await until(lambda: link.available)
    assert len(heard) == count + 1
    await link.close()


async def test_a_listener_that_fails_does_not_end_the_watch(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    link = RedisLink(valkey.url, INSTALLATION)
    heard: list[float] = []

    def fail() -> None:
        raise ZeroDivisionError

    link.listen(fail)
    link.listen(lambda: heard.append(time.monotonic()))
    await link.open()
    valkey.restart()
    await until(lambda: len(heard) >= 2)
    assert "failed" in caplog.text
    await link.close()


async def test_the_servers_clock_is_never_taken_to_be_ahead_of_itself(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as link:
        with shared_valkey.client() as client:
            for _ in range(20):
                assumed = link.server_time(time.monotonic())
                seconds, microseconds = client.time()
                actual = seconds * 1000 + microseconds / 1000
                assert actual - 100 < assumed <= actual
        moment = time.monotonic()
        assert link.server_time(moment + 60) - link.server_time(moment) == pytest.approx(60_000, abs=1)


async def test_a_subscription_that_cannot_be_had_is_an_outage(valkey: ValkeyServer) -> None:
    async with linked(valkey.url) as link:
        valkey.kill()
        with pytest.raises(StorageUnavailable):
            await link.subscribe("channel")


async def test_a_subscription_to_a_cluster_that_is_not_there_is_an_outage() -> None:
    async with linked("redis+cluster://127.0.0.1:1") as link:
        with pytest.raises(StorageUnavailable):
            await link.subscribe("channel")


async def test_a_subscription_receives_published_messages(shared_valkey: ValkeyServer) -> None:
    async with linked(shared_valkey.url) as link:
        connection = await link.subscribe("channel")
        with shared_valkey.client() as client:
            client.publish("channel", "hello")
        assert await connection.read_response(timeout=1) == [b"message", b"channel", b"hello"]
        await disconnect(connection)


@pytest.mark.parametrize("given", ["the-right-one", "the-wr/ong%20one", None])
async def test_a_password_is_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: str | None
) -> None:
    with running(tmp_path, "--requirepass", "the-right-one") as server, caplog.at_level(logging.DEBUG):
        userinfo = "" if given is None else f":{given}@"
        async with linked(f"redis://{userinfo}127.0.0.1:{server.port}/1") as link:
            assert link.available is (given == "the-right-one")
            failure = None if link.available else str(await out(link))
            server.kill()
            await until(lambda: not link.available, within=2.0)
        seen = "\n".join(f"{entry.getMessage()} {entry.args} {entry.exc_text}" for entry in caplog.records)
        for secret in ("the-right-one", "the-wr/ong one", "the-wr/ong%20one"):
            assert secret not in seen
            assert failure is None or secret not in failure
        if given is not None and given != "the-right-one":
            assert "AuthenticationError" in seen


async def test_closing_does_not_wait_for_a_hung_server(valkey: ValkeyServer) -> None:
    link = RedisLink(valkey.url, INSTALLATION)
    await link.open()
    valkey.pause()
    waiting = asyncio.create_task(out(link))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    await link.close()
    assert time.monotonic() - started < 2.0  # the server stays hung for longer
    await waiting


async def test_closing_leaves_no_connection_that_a_running_operation_opens_again(valkey: ValkeyServer) -> None:
    client = OpenClient(parse_redis_address(valkey.url), "test:")
    await client.connect()
    began, closed = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        async with client.slot():
            began.set()
            await closed.wait()
            await client.client.ping()

    with valkey.client() as observer:
        task = asyncio.create_task(operation())
        await began.wait()
        closing = asyncio.create_task(client.close())
        await until(lambda: len(observer.client_list()) == 1)
        closed.set()
        await asyncio.gather(task, closing)
        await until(lambda: len(observer.client_list()) == 1)


async def test_a_link_that_was_never_opened_can_be_closed() -> None:
    await RedisLink("redis://127.0.0.1:1", INSTALLATION).close()
