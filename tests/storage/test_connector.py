"""Connections for callers that give up before the connection is established."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from gateway.storage.connector import Connector
from tests.support.waiting import until


class Server:
    """Accepts a connection when `accept` is called. Connections are numbers."""

    def __init__(self) -> None:
        self.attempts: list[asyncio.Future[int]] = []
        self.closed: set[int] = set()
        self.connector = Connector(
            self._make, close=self.closed.add, is_open=lambda number: number not in self.closed, limit=3
        )

    async def _make(self) -> int:
        attempt: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.attempts.append(attempt)
        return await attempt

    def accept(self, number: int) -> None:
        self.attempts[number].set_result(number)

    async def call(self) -> "asyncio.Task[int]":
        """A caller that has begun to wait."""
        task = asyncio.create_task(self.connector.connect())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def give_up(self) -> None:
        task = await self.call()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.connector.stop()


async def test_an_attempt_outlives_the_caller_that_began_it(server: Server) -> None:
    await server.give_up()
    server.accept(0)
    assert await server.connector.connect() == 0
    assert len(server.attempts) == 1


async def test_a_second_caller_waits_for_the_attempt_that_the_first_left(server: Server) -> None:
    await server.give_up()
    second = await server.call()
    server.accept(0)
    assert await second == 0
    assert len(server.attempts) == 1


async def test_each_waiting_caller_gets_a_connection_of_its_own(server: Server) -> None:
    callers = [await server.call() for _ in range(3)]
    for number in (1, 0, 2):
        server.accept(number)
    assert sorted(await asyncio.gather(*callers)) == [0, 1, 2]


async def test_attempts_are_limited_and_the_others_wait(server: Server) -> None:
    callers = [await server.call() for _ in range(5)]
    assert len(server.attempts) == 3
    server.accept(0)
    await until(lambda: len(server.attempts) == 4)
    for number in (1, 2, 3):
        server.accept(number)
    await until(lambda: len(server.attempts) == 5)
    server.accept(4)
    assert sorted(await asyncio.gather(*callers)) == [0, 1, 2, 3, 4]


async def test_an_error_reaches_one_caller_and_the_next_one_tries_again(server: Server) -> None:
    caller = await server.call()
    server.attempts[0].set_exception(OSError("refused"))
    with pytest.raises(OSError, match="refused"):
        await caller
    again = await server.call()
    server.accept(1)
    assert await again == 1


async def test_the_error_of_an_attempt_without_a_caller_is_dropped(server: Server) -> None:
    await server.give_up()
    server.attempts[0].set_exception(OSError("refused"))
    await asyncio.sleep(0.01)
    caller = await server.call()
    server.accept(1)
    assert await caller == 1


async def test_a_connection_that_has_closed_since_is_not_handed_out(server: Server) -> None:
    await server.give_up()
    server.accept(0)
    await asyncio.sleep(0.01)
    server.closed.add(0)
    caller = await server.call()
    server.accept(1)
    assert await caller == 1


async def test_an_attempt_that_hangs_does_not_hold_up_the_callers_of_the_next_second(server: Server) -> None:
    await server.give_up()
    await asyncio.sleep(1.05)
    caller = await server.call()
    server.accept(1)
    assert await caller == 1


async def test_a_connection_that_arrives_with_the_end_of_its_caller_is_kept(server: Server) -> None:
    caller = await server.call()
    server.accept(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert await server.connector.connect() == 0


async def test_stopping_closes_spare_connections_and_ends_the_attempts(server: Server) -> None:
    callers = [await server.call() for _ in range(2)]
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    server.accept(0)
    await asyncio.sleep(0.01)
    server.connector.stop()
    await asyncio.sleep(0.01)
    assert server.closed == {0}
    assert server.attempts[1].cancelled()


async def test_an_attempt_that_is_stopped_before_it_begins_leaves_no_coroutine() -> None:
    begun: list[str] = []

    async def make() -> int:
        begun.append("made")
        return 0

    connector = Connector(make, close=lambda _: None, is_open=lambda _: True, limit=1)
    caller = asyncio.create_task(connector.connect())
    asyncio.get_running_loop().call_soon(connector.stop)  # runs after the caller, before its attempt
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()  # reports a coroutine that was never awaited
    assert begun == []
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
