"""Event streams (text/event-stream): every event at once, and many streams at low cost. Their end:
tests/journeys."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Caller
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scale import scaled
from tests.support.scripts import response
from tests.support.small import metric
from tests.support.waiting import eventually
from tests.support.wording import request

PATH = "/public/events"
STREAM = "Content-Type: text/event-stream"


class ScriptedStream:
    """A script for a stream whose events the test sends one by one."""

    def __init__(self, *, chunked: bool = True) -> None:
        self._chunked = chunked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchange: Exchange | None = None

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.body()
        fields = [STREAM, "Transfer-Encoding: chunked"] if self._chunked else [STREAM, "Connection: close"]
        await exchange.send(response(200, fields, None))
        self._loop, self._exchange = asyncio.get_running_loop(), exchange
        await exchange.left()

    def tell(self, event: bytes) -> float:
        """Send an event; returns the time."""
        exchange = eventually(lambda: self._exchange)
        assert self._loop is not None and exchange is not None
        data = b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event
        sent_at = time.monotonic()
        asyncio.run_coroutine_threadsafe(exchange.send(data), self._loop).result(5)
        return sent_at


@pytest.mark.parametrize("chunked", [True, False])
def test_every_event_arrives_at_once(gateway: Gateway, upstream: RecordingUpstream, chunked: bool) -> None:
    """The gateway adds less than 20 ms, and does not wait for a second event, a full buffer or the end."""
    script = ScriptedStream(chunked=chunked)
    upstream.on(PATH, script)
    with gateway.caller() as caller:
        head = caller.send(request(PATH)).receive_head()
        assert head.values("content-type") == [b"text/event-stream"]
        took = []
        for number in range(50):
            event = b"id: %d\ndata: one of many\n\n" % number
            since = script.tell(event)
            caller.read_until(event)
            took.append(time.monotonic() - since)
        assert statistics.median(took) < 0.02, took


def test_a_stream_may_be_silent_for_longer_than_any_other_answer(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The idle timeout of this upstream is 250 ms."""
    script = ScriptedStream()
    upstream.on("/impatient/events", script)
    with gateway.caller() as caller:
        caller.send(request("/impatient/events")).receive_head()
        script.tell(b"data: 1\n\n")
        caller.read_until(b"data: 1\n\n")
        time.sleep(0.9)
        script.tell(b"data: 2\n\n")
        caller.read_until(b"data: 2\n\n")


def test_a_client_that_disconnects_ends_it_upstream(gateway: Gateway, upstream: RecordingUpstream) -> None:
    script = ScriptedStream()
    upstream.on(PATH, script)
    with gateway.caller() as caller:
        caller.send(request(PATH)).receive_head()
        script.tell(b"data: 1\n\n")
        caller.read_until(b"data: 1\n\n")
    eventually(lambda: upstream.only.link.ended, timeout=2.0)


# ---- many streams

MANY = scaled(1000)
PRICE = {"serve": 20, "asgi": 28}  # In KiB.


@pytest.fixture
def own(gateways: Gateways, face: Face, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A separate gateway, whose memory other tests have not used."""
    folder = tmp_path_factory.mktemp("streams")
    configuration = gateways.configuration(folder)
    configuration["upstreams"]["web"]["max_connections"] = 2 * MANY
    gateway = Gateway(face, configuration, folder).start()
    yield gateway
    gateway.kill()


def test_many_streams_cost_little_and_all_go_on(own: Gateway, upstream: RecordingUpstream) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(response(200, [STREAM, "Transfer-Encoding: chunked"], None) + b"9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        await exchange.send(b"9\r\ndata: 2\n\n\r\n")
        await exchange.left()

    upstream.on(PATH, script)
    for caller in _streams(own, 20):
        caller.close()
    eventually(lambda: metric(own, "gateway_upstream_connections", state="busy") == 0)
    before = own.memory()
    callers = _streams(own, MANY)
    price = (own.memory() - before) / MANY / 1024
    print(f"{own.face}: {price:.1f} KiB for each event stream")
    upstream.call_soon(go_on.set)
    for caller in callers:
        caller.read_until(b"data: 2\n\n")
        caller.close()
    assert price < PRICE[own.face]


def _streams(gateway: Gateway, count: int) -> list[Caller]:
    callers = [gateway.caller(timeout=15) for _ in range(count)]
    for caller in callers:
        caller.send(request(PATH))
    for caller in callers:
        assert caller.receive_head().status == 200
        caller.read_until(b"data: 1\n\n")
    return callers
