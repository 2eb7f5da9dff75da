"""Clients that need more connections to a target than exist: each gets its share."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.proxy.interfaces import Exchange
from tests.proxy.upstreams.harness import Harness, Outcome, ended, running, settings
from tests.support.fleet import OK, Fleet, Served, hang, well
from tests.support.listening import small_listener
from tests.support.processes import FACES, Face, Gateway
from tests.support.raw import Caller
from tests.support.small import Start, metric
from tests.support.waiting import eventually, promised, until, within
from tests.support.wording import request

PLACES = 4
A, B, C = "192.0.2.65", "192.0.2.66", "192.0.2.67"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n"


class Stopped:
    """A behaviour that responds on demand, in the order of the requests."""

    def __init__(self, fleet: Fleet) -> None:
        self._target = fleet["a"]
        self._target.behaviour = self._stop
        self.stopped: list[Served] = []

    def _stop(self, served: Served) -> None:
        self.stopped.append(served)

    async def holds(self, count: int) -> None:
        await until(lambda: len(self.stopped) >= count)

    async def answer_one(self) -> None:
        """Respond to the oldest request, and wait until another has taken its place."""
        served, count = self.stopped.pop(0), len(self.stopped)
        self._target.loop.call_soon_threadsafe(served.send, OK)
        await self.holds(count + 1)


@pytest.fixture
async def senders() -> AsyncIterator["Clients"]:
    gathered = Clients()
    yield gathered
    gathered.leave()


Under = tuple[Outcome, Exchange]


class Clients:
    """Requests of clients, which disconnect at the end of the test."""

    def __init__(self) -> None:
        self._begun: list[Under] = []

    def begin(self, harness: Harness, method: str = "GET", **options: Any) -> Under:
        self._begun.append(harness.begin(method, **options))
        return self._begun[-1]

    def clients(self, harness: Harness, spelled: str) -> list[Outcome]:
        """A request of each of these clients, in this order."""
        return [self.begin(harness, client=f"192.0.2.{ord(letter)}", name=letter)[0] for letter in spelled]

    def leave(self) -> None:
        for outcome, exchange in self._begun:
            if not outcome.done.done():
                exchange.cancel()


# ---- the next request


@pytest.mark.usefixtures("either_engine")
async def test_a_client_that_holds_half_of_the_connections_waits_while_others_do(
    fleet: Fleet, senders: Clients
) -> None:
    target = Stopped(fleet)
    async with running(settings(fleet["a"].url, max_connections=PLACES)) as harness:
        senders.clients(harness, "AAAA")
        await target.holds(4)
        outcomes = senders.clients(harness, "AAABBC")
        for _ in range(2):
            await target.answer_one()
        served = [served.head.partition(b"X-Id: ")[2][:1] for served in target.stopped]
        assert served == [b"A", b"A", b"B", b"C"]
        for _ in range(4):
            await target.answer_one()
        served = [served.head.partition(b"X-Id: ")[2][:1] for served in target.stopped]
        assert Counter(served) == {b"A": 3, b"B": 1}, "when no other waits, it gets more"
        fleet["a"].behaviour = well
        for served_ in target.stopped:
            fleet["a"].loop.call_soon_threadsafe(served_.send, OK)
        assert {(await ended(outcome)).status for outcome in outcomes} == {200}


@pytest.mark.usefixtures("either_engine")
async def test_a_client_alone_gets_all_connections(fleet: Fleet, senders: Clients) -> None:
    target = Stopped(fleet)
    async with running(settings(fleet["a"].url, max_connections=PLACES)) as harness:
        senders.clients(harness, "AAAAAA")
        await target.holds(4)
        assert harness.engine.open_connections == PLACES
        await target.answer_one()
        await target.answer_one()


@pytest.mark.usefixtures("either_engine")
async def test_a_flood_of_one_client_does_not_fill_the_queue_for_others(fleet: Fleet, senders: Clients) -> None:
    target = Stopped(fleet)
    async with running(settings(fleet["a"].url, max_connections=2)) as harness:
        flood = senders.clients(harness, "AA")
        await target.holds(2)
        flood += senders.clients(harness, "A" * 4096)
        (other,) = senders.clients(harness, "B")
        await target.answer_one()
        assert target.stopped[-1].head.partition(b"X-Id: ")[2][:1] == b"B"
        refused = [outcome for outcome in flood if outcome.done.done() and outcome.refusal]
        assert [outcome.code for outcome in refused] == ["overloaded"]
        assert not other.done.done()


@pytest.mark.usefixtures("either_engine")
async def test_requests_of_many_clients_are_all_answered(fleet: Fleet, senders: Clients) -> None:
    fleet["a"].behaviour = lambda served: served.later(0.002, lambda: served.send(OK))
    async with running(settings(fleet["a"].url, max_connections=3, connect_timeout=30.0)) as harness:
        clients = [f"198.51.100.{number % 7}" for number in range(150)]
        outcomes = [harness.begin(client=client, response_timeout=30.0)[0] for client in clients]
        assert {(await ended(outcome)).status for outcome in outcomes} == {200}
        assert harness.engine.open_connections <= 3


# ---- slow clients with more than half of the connections


async def waits_at_most(harness: Harness, seconds: float) -> Outcome:
    """A request of another client, which must be answered in time."""
    started = time.monotonic()
    outcome = await harness.ask(client=B)
    assert outcome.status == 200, outcome.refusal and outcome.refusal.reason
    assert time.monotonic() - started < seconds
    return outcome


def slow_uploads(senders: Clients, harness: Harness, count: int, client: str = A) -> list[Under]:
    """Uploads that have begun; the first ones have sent more than the last."""
    begun = [senders.begin(harness, "POST", length=1000, client=client) for _ in range(count)]
    for number, (_, exchange) in enumerate(begun):
        exchange.write(b"x" * (count - number))
    return begun


async def all_hold_connections(begun: list[Under]) -> None:
    """Wait until no request waits for a connection. The target accepts a connection before the engine uses it, and the
    next request takes its turn among those that wait."""
    await until(lambda: not any(exchange.waiting for _, exchange in begun))


@pytest.mark.usefixtures("either_engine")
async def test_slow_uploads_beyond_half_of_the_connections_end_when_others_wait(fleet: Fleet, senders: Clients) -> None:
    async with running(settings(fleet["a"].url, max_connections=PLACES)) as harness:
        uploads = slow_uploads(senders, harness, PLACES)
        await all_hold_connections(uploads)
        await asyncio.sleep(1.0)
        assert not any(outcome.done.done() for outcome, _ in uploads), "while it is alone"
        for _ in range(3):
            await waits_at_most(harness, 3.0)
        assert [outcome.code for outcome, _ in uploads if outcome.done.done()] == ["overloaded"]
        assert uploads[-1][0].refusal is not None and uploads[-1][0].refusal.retry_after == 1
        others = await asyncio.gather(*(harness.ask(client=f"198.51.100.{number}") for number in range(20)))
        assert {outcome.status for outcome in others} == {200}
        left = [(outcome, exchange) for outcome, exchange in uploads if not outcome.done.done()]
        assert len(left) >= PLACES // 2
        for outcome, exchange in left:
            exchange.write(b"x" * (1000 - exchange.received))  # type: ignore[attr-defined]
            exchange.end_body()
            assert (await ended(outcome)).status == 200


@pytest.mark.usefixtures("either_engine")
async def test_half_of_the_connections_stay_with_slow_uploads(fleet: Fleet, senders: Clients) -> None:
    async with running(settings(fleet["a"].url, max_connections=PLACES, connect_timeout=1.0)) as harness:
        uploads = slow_uploads(senders, harness, 2) + slow_uploads(senders, harness, 2, C)
        await all_hold_connections(uploads)
        assert (await harness.ask(client=B)).code == "overloaded"
        assert not any(outcome.done.done() for outcome, _ in uploads)


@pytest.mark.usefixtures("either_engine")
async def test_event_streams_beyond_half_of_the_connections_end_when_others_wait(
    fleet: Fleet, senders: Clients
) -> None:
    fleet["a"].behaviour = lambda served: served.send(EVENTS)
    async with running(settings(fleet["a"].url, max_connections=PLACES)) as harness:
        streams = [senders.begin(harness, client=A)[0] for _ in range(PLACES)]
        await until(lambda: all(stream.content for stream in streams))
        fleet["a"].behaviour = well
        await waits_at_most(harness, 3.0)
        over = [stream for stream in streams if stream.done.done()]
        assert [(one.status, one.code, one.aborted) for one in over] == [(200, "", None)], "as if it had ended"


@pytest.mark.usefixtures("either_engine")
async def test_responses_that_are_not_read_beyond_half_of_the_connections_end_when_others_wait(
    fleet: Fleet, senders: Clients
) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50_000_000
    fleet["a"].behaviour = lambda served: served.send(large)
    async with running(settings(fleet["a"].url, max_connections=PLACES)) as harness:
        downloads = [senders.begin(harness, client=A) for _ in range(PLACES)]
        async with asyncio.timeout(5):
            while not all(outcome.pieces for outcome, _ in downloads):
                await asyncio.sleep(0.001)
                for outcome, exchange in downloads:
                    if outcome.pieces:
                        exchange.pause()
        fleet["a"].behaviour = well
        await waits_at_most(harness, 3.0)
        assert [outcome.code for outcome, _ in downloads if outcome.done.done()] == ["overloaded"]


@pytest.mark.usefixtures("either_engine")
async def test_requests_that_the_target_works_on_do_not_end(fleet: Fleet, senders: Clients) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url, max_connections=PLACES, connect_timeout=1.0)) as harness:
        working = [senders.begin(harness, "POST", body=b"x", client=A)[0] for _ in range(PLACES)]
        await asyncio.to_thread(eventually, lambda: fleet["a"].requests == PLACES)
        assert (await harness.ask(client=B)).code == "overloaded"
        assert not any(outcome.done.done() for outcome in working)


async def test_uploads_that_the_target_does_not_read_do_not_end(senders: Clients) -> None:
    listener = small_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with running(settings(url, max_connections=PLACES, connect_timeout=1.0)) as harness:
        size = 32 << 20
        uploads = [senders.begin(harness, "POST", length=size, client=A) for _ in range(PLACES)]
        await all_hold_connections(uploads)
        for _, exchange in uploads:
            exchange.write(b"x" * (size - 1))
        assert (await harness.ask(client=B)).code == "overloaded"
        assert not any(outcome.done.done() for outcome, _ in uploads)
    listener.close()


# ---- through a gateway


@contextlib.contextmanager
def uploading(gateway: Gateway, count: int, *fields: str, source: str = "127.0.0.1") -> Iterator[list[Caller]]:
    """Clients that begin one upload each, and then send nothing."""
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(gateway.address, source=source)) for _ in range(count)]
        for caller in callers:
            caller.send(request("/web/x", method="POST", fields=["Content-Length: 1000", *fields]) + b"x")
        eventually(lambda: metric(gateway, "gateway_upstream_connections", state="busy") == count, every=0.02)
        yield callers


@pytest.mark.parametrize("face", FACES)
def test_slow_uploads_of_one_address_do_not_keep_others_out(start: Start, fleet: Fleet, face: Face) -> None:
    """Behind a trusted proxy the address is that of the client."""
    upstream = {"targets": [fleet["a"].url], "max_connections": PLACES, "connect_timeout": "1s"}
    gateway = start({"web": upstream}, face, server={"trusted_proxies": ["127.0.0.1/32"]})
    with uploading(gateway, PLACES, source="127.0.0.2") as callers:
        for _ in range(3):
            with within(promised(1.0)), Caller(gateway.address, source="127.0.0.3") as other:
                assert other.send(request("/web/x")).receive().status == 200
        answers = [caller.receive() for caller in callers if _has_answer(caller)]
        assert [answer.refused() for answer in answers] == [(503, "overloaded")]
        assert answers[0].value("retry-after") == b"1"
    for greedy, client, answered in BEHIND_A_PROXY:
        with uploading(gateway, PLACES, f"X-Forwarded-For: {greedy}"):
            answer = gateway.ask(request("/web/x", fields=[f"X-Forwarded-For: {client}"]))
        assert answer.status == (200 if answered else 503), (greedy, client)


BEHIND_A_PROXY = [
    ("198.51.100.1", "198.51.100.2", True),
    ("198.51.100.1", "198.51.100.1", False),
    ("2001:db8::1", "2001:db8:0:1::1", True),
    ("2001:db8::1", "2001:db8::2", False),
]


def _has_answer(caller: Caller) -> bool:
    caller.socket.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        return bool(caller.socket.recv(1, socket.MSG_PEEK))
    return False
