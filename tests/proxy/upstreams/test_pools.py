"""The connections to one target: kept, bounded, discarded, and closed without affecting their users."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.proxy.upstreams.harness import Harness, ended, running, settings
from tests.support.fleet import OK, Fleet, Served, Target, hang, well
from tests.support.listening import small_listener
from tests.support.waiting import cpu_within, until


def pool_of(harness: Harness) -> Any:
    return harness.engine.pools[0]


# ---- the request


@pytest.mark.parametrize("used", [False, True], ids=["on a new connection", "on a used one"])
async def test_an_empty_chunked_body_ends(fleet: Fleet, used: bool) -> None:
    async with running(settings(fleet["a"].url)) as harness:
        if used:
            await harness.ask()
        outcome, exchange = harness.begin("PUT", length=None)
        exchange.end_body()
        assert (await ended(outcome, within=2.0)).status == 200


async def test_an_empty_chunked_body_ends_when_it_is_sent_again(fleet: Fleet) -> None:
    """A stale connection fails under it; no byte of its body was sent, because it is empty."""
    async with running(settings(fleet["a"].url)) as harness:
        await harness.ask()
        fleet["a"].behaviour = lambda served: well(served) if served.number == 1 else served.close()
        outcome, exchange = harness.begin("PUT", length=None)
        exchange.end_body()
        assert (await ended(outcome, within=2.0)).status == 200
    assert fleet["a"].requests == 3


async def test_the_answer_to_an_upload_that_was_taken_slowly_has_a_time_limit(fleet: Fleet) -> None:
    """`response_timeout` starts when the request has been forwarded completely, including after a pause."""
    size = 32 << 20

    class Slow(Served):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.of.loop.call_soon(self.transport.pause_reading)  # uvloop starts to read when this method returns
            self.later(0.8, self.transport.resume_reading)

    target = fleet["a"]
    target.behaviour = hang
    await asyncio.to_thread(target.down)
    server = await asyncio.to_thread(_serve_with, target, Slow)
    try:
        async with running(settings(target.url)) as harness:
            started = asyncio.get_running_loop().time()
            outcome, exchange = harness.begin("PUT", length=size, response_timeout=0.3)
            exchange.write(b"x" * size)
            exchange.end_body()
            assert (await ended(outcome, within=15.0)).code == "upstream_timeout"
            assert asyncio.get_running_loop().time() - started > 0.9, "the time of the upload is not the answer's"
    finally:
        await asyncio.to_thread(_stop, target, server)


def _serve_with(target: Target, protocol: Callable[[Target], asyncio.Protocol]) -> asyncio.Server:
    async def start() -> asyncio.Server:
        return await target.loop.create_server(lambda: protocol(target), sock=small_listener(target.address))

    return asyncio.run_coroutine_threadsafe(start(), target.loop).result(5)


def _stop(target: Target, server: asyncio.Server) -> None:
    target.loop.call_soon_threadsafe(server.close)
    target.down()
    target.up()


# ---- pooled connections


async def test_a_connection_announced_as_closing_is_not_reused(fleet: Fleet) -> None:
    """The pool knows the end at once; the event loop reports it a moment later, and other requests can arrive in
    between."""
    async with running(settings(fleet["a"].url)) as harness:
        await harness.ask()
        (connection,) = pool_of(harness).connections
        connection.eof_received()
        assert (await harness.ask("POST")).status == 200
        assert fleet["a"].accepted == 2


async def test_a_connection_with_unrequested_bytes_is_not_reused(fleet: Fleet) -> None:
    async with running(settings(fleet["a"].url)) as harness:
        await harness.ask()
        (connection,) = pool_of(harness).connections
        connection.data_received(OK)
        assert (await harness.ask("POST")).status == 200
        assert fleet["a"].accepted == 2


async def test_a_pool_has_at_most_so_many_connections(fleet: Fleet) -> None:
    async with running(settings(fleet["a"].url, max_connections=3)) as harness:
        outcomes = await harness.ask_many(200, at_once=40)
        assert {one.status for one in outcomes} == {200}
        assert harness.engine.open_connections <= 3
    assert fleet["a"].accepted <= 3


async def test_a_thousand_cancelled_waits_are_removed_at_once(fleet: Fleet) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url, max_connections=1)) as harness:
        waiting = [harness.begin()[1] for _ in range(4097)]
        with cpu_within(0.1):
            for exchange in waiting[1:]:
                exchange.cancel()
        waiting[0].cancel()
        fleet["a"].behaviour = well
        assert (await harness.ask()).status == 200


async def test_a_line_that_is_too_long_turns_away(fleet: Fleet) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url, max_connections=1)) as harness:
        begun = [harness.begin() for _ in range(4096)]
        outcome = await harness.ask()
        assert (outcome.status, outcome.code) == (503, "overloaded")
        assert outcome.refusal is not None
        assert outcome.refusal.retry_after == 1
        for _, exchange in begun:
            exchange.cancel()


# ---- the end of an engine after a reload


async def test_running_requests_of_a_closed_engine_finish(fleet: Fleet) -> None:
    fleet["a"].behaviour = lambda served: served.later(0.2, lambda: served.send(OK))
    async with running(settings(fleet["a"].url)) as harness:
        outcome, _ = harness.begin()
        await until(lambda: fleet["a"].requests)
        harness.engine.close()
        assert (await ended(outcome)).content == b"ok"
        await asyncio.to_thread(fleet["a"].idle)


async def test_waiting_requests_of_a_closed_engine_are_served(fleet: Fleet) -> None:
    fleet["a"].behaviour = lambda served: served.later(0.1, lambda: served.send(OK))
    async with running(settings(fleet["a"].url, max_connections=1)) as harness:
        begun = [harness.begin("POST", body=b"x") for _ in range(5)]
        harness.engine.close()
        for outcome, _ in begun:
            assert (await ended(outcome)).status == 200
        await asyncio.to_thread(fleet["a"].idle)
    assert fleet["a"].requests == 5


async def test_late_requests_to_a_closed_engine_are_served(fleet: Fleet) -> None:
    """A decision was made under the old configuration, and the request had to wait for a store."""
    async with running(settings(fleet["a"].url)) as harness:
        listeners = harness.ticker.listeners
        harness.engine.close()
        await until(lambda: harness.ticker.listeners < listeners)
        fleet["a"].behaviour = hang
        assert (await harness.ask(response_timeout=0.1)).code == "upstream_timeout"
        fleet["a"].behaviour = well
        assert (await harness.ask()).status == 200
        await asyncio.to_thread(fleet["a"].idle)


async def test_time_limits_hold_after_an_engine_is_closed(fleet: Fleet) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url)) as harness:
        outcome, _ = harness.begin(response_timeout=0.2)
        await until(lambda: fleet["a"].requests)
        harness.engine.close()
        assert (await ended(outcome, within=2.0)).code == "upstream_timeout"


async def test_idle_connections_are_closed_with_their_engine(fleet: Fleet) -> None:
    async with running(settings(*fleet.urls)) as harness:
        await harness.ask_many(30)
        assert harness.engine.open_connections >= 3
        harness.engine.close()
        for target in fleet.targets.values():
            await asyncio.to_thread(target.idle)
        assert harness.engine.open_connections == 0


async def test_a_closed_engine_leaves_nothing_behind(fleet: Fleet) -> None:
    async with running(settings(*fleet.urls)) as harness:
        listeners = harness.ticker.listeners
        await harness.ask_many(30)
        harness.engine.close()
        await until(lambda: harness.ticker.listeners == listeners - 3)
