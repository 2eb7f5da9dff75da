"""Hostile clients against `gateway serve`: other clients are still served, and memory stays bounded."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.builds import patches_a_compiled_constant
from tests.support.fleet import Fleet, Served
from tests.support.load import AsyncCaller, Load
from tests.support.processes import Gateway
from tests.support.raw import Ending, MiB, NoAnswer
from tests.support.scale import WHOLE
from tests.support.small import Start, descriptors, metric, small
from tests.support.waiting import eventually, promised, within
from tests.support.wording import chunked, request

GET = request("/web/x")


@contextmanager
def crowd(gateway: Gateway, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """This many open connections on which the same bytes were sent."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.create_connection(gateway.address, timeout=10)
            if sent:
                one.sendall(sent)
            sockets.append(one)
        yield sockets
    finally:
        for one in sockets:
            one.close()


async def good_callers(gateway: Gateway, requests: int = 400) -> float:
    """The p99 in seconds of a few well-behaved clients, none of which fails."""
    async with Load(gateway.address, lambda _: GET, callers=4) as load:
        await load.more(requests)
    assert load.lost == []
    assert load.statuses == {200: len(load.answers)}
    return load.percentile(0.99)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all tests that leave it intact."""
    fleet = Fleet("a")
    folder = tmp_path_factory.mktemp("shared")
    gateway = Gateway("serve", small(folder, {"web": {"targets": fleet.urls, "max_connections": 4000}}), folder).start()
    yield gateway
    gateway.kill()
    fleet.stop()


# ---- slow and idle connections

MANY = 2000 if WHOLE else 600

SLOW = {
    "idle": b"",
    "a head without end": b"GET /web/x HTTP/1.1\r\nHost: gateway.test\r\nX-A: ",
    "a body that does not come": request("/web/x", method="POST", fields=["Content-Length: 100"]) + b"half",
    "half a chunk": request("/web/x", method="POST", fields=["Transfer-Encoding: chunked"]) + b"ff\r\nhalf",
}


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
async def test_many_slow_connections_leave_a_good_caller_alone(shared: Gateway, sent: bytes) -> None:
    gateway = shared
    await good_callers(gateway, 100)
    before = gateway.memory()
    with crowd(gateway, MANY, sent):
        await asyncio.to_thread(eventually, lambda: metric(gateway, "gateway_connections") >= MANY)
        p99 = await good_callers(gateway)
        growth = gateway.memory() - before
    print(f"\n{MANY} connections: p99 {p99 * 1000:.1f} ms, {growth / MANY / 1024:.1f} KiB each")
    assert p99 < promised(1.0)
    assert growth < MANY * 64 * 1024
    await asyncio.to_thread(eventually, lambda: metric(gateway, "gateway_connections") < 20)


async def test_many_dripping_connections_are_cut_off_and_leave_a_good_caller_alone(start: Start, fleet: Fleet) -> None:
    """Slowloris: a few bytes of a head at a time. The limit applies to the whole head."""
    gateway = start({"web": fleet.urls}, server={"header_timeout": "1s"})
    with crowd(gateway, MANY, SLOW["a head without end"]) as sockets:
        started = time.monotonic()
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.3):
                for one in sockets:
                    with contextlib.suppress(OSError):
                        one.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            p99 = await good_callers(gateway)
            answers = await asyncio.to_thread(lambda: {one.recv(12) for one in sockets})
            took = time.monotonic() - started
        finally:
            stop.set()
            dripping.join()
    print(f"\n{MANY} dripping connections: p99 {p99 * 1000:.1f} ms, all refused after {took:.1f} s")
    assert p99 < promised(1.0)
    assert answers == {b"HTTP/1.1 408"}


def test_empty_lines_do_not_keep_a_connection(start: Start, fleet: Fleet) -> None:
    """Empty lines are skipped, so they begin no request, and the time for a head continues."""
    gateway = start({"web": fleet.urls}, server={"header_timeout": "500ms"})
    with gateway.caller() as caller, within(4.0), contextlib.suppress(OSError):
        while True:
            caller.send(b"\r\n")
            time.sleep(0.1)


def test_a_head_that_follows_empty_lines_has_its_time(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls}, server={"header_timeout": "500ms"})
    with gateway.caller() as caller:
        caller.send(b"\r\n\r\nGET /web/x HTTP/1.1\r\n")
        assert caller.receive().refused() == (408, "request_timeout")
        caller.ended()


def test_a_body_that_stops_is_a_408_and_costs_its_upstream_a_connection_at_most_as_long(
    start: Start, fleet: Fleet
) -> None:
    gateway = start({"web": fleet.urls}, server={"body_timeout": "400ms"})
    for data in (SLOW["a body that does not come"], SLOW["half a chunk"]):
        with gateway.caller() as caller, within(2.5):
            assert caller.send(data).receive("POST").refused() == (408, "request_timeout")
            caller.ended()
    for target in fleet.targets.values():
        target.idle()


# ---- floods


def blocked(gateway: Gateway, attack: bytes, *, size: int = 0) -> float:
    """The longest wait in seconds of a well-behaved client for a response while one client sends this."""
    waits: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        with gateway.caller() as good:
            while not stop.wait(0.002):
                asked = time.monotonic()
                good.send(GET)
                assert good.receive().status == 200
                waits.append(time.monotonic() - asked)

    asking = threading.Thread(target=ask)
    with gateway.caller(timeout=20) as bad:
        asking.start()
        eventually(lambda: len(waits) > 20)
        waits.clear()
        reading = threading.Thread(target=_read_all, args=(bad,), daemon=True)
        reading.start()
        bad.send_until_refused([attack])
        with contextlib.suppress(OSError):
            bad.finish_sending()
        reading.join(20)
        stop.set()
        asking.join(20)
    assert waits
    return max(waits)


def _read_all(caller) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(OSError):
        while caller.socket.recv(1 << 20):
            pass


FLOODS = {
    "pipelined refusals": b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n" * 9000,
    "pipelined requests that repeat themselves": b"GET /no HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n" * 7000,
    "pipelined own endpoints": b"GET /_gateway/health HTTP/1.1\r\nHost: a\r\n\r\n" * 3000,
    "pipelined proxied requests": GET * 3000,
    "pipelined bodies": (request("/no", method="POST", body=b"x" * 10)) * 4000,
    "empty lines": b"\r\n" * 500_000,
    "fields": b"GET /no HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 8000 + b"\r\n",
    "tiny chunks": request("/web/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(*[b"x"] * 100_000),
    "a target of 30 KB": b"GET /" + b"%41" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "segments": (b"GET /" + b"a/" * 15_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n") * 8,
}


@pytest.mark.parametrize("attack", FLOODS.values(), ids=FLOODS)
def test_a_flood_in_one_packet_delays_no_other(shared: Gateway, attack: bytes) -> None:
    waits: list[float] = []
    while len(waits) < 3 and min(waits, default=1.0) >= 0.2:  # other processes can delay an attempt
        waits.append(blocked(shared, attack))
    print(f"\nlongest waits {waits} s")
    assert min(waits) < 0.2


def test_pipelined_requests_are_all_answered_however_many_there_are(shared: Gateway) -> None:
    count = 5000
    with shared.caller(timeout=30) as caller:
        sending = threading.Thread(target=lambda: caller.send(request("/no") * (count - 1) + GET))
        sending.start()
        for _ in range(count - 1):
            assert caller.receive().status == 404
        assert caller.receive().status == 200
        sending.join()
        assert caller.is_open()


# ---- heads


HEADS = {
    "a large field": (b"X-A: " + b"x" * 40_000 + b"\r\n", 431),
    "many fields": (b"".join(b"X-%d: y\r\n" % number for number in range(1200)), 431),
    "many empty fields": (b"a:\r\n" * 1200, 431),
    "a large target": (None, 431),
    "as many fields as may be": (b"".join(b"X-%d: y\r\n" % number for number in range(990)), 200),
    "a field that just fits": (b"X-A: " + b"x" * 32_000 + b"\r\n", 200),
}


@pytest.mark.parametrize(("lines", "status"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("piece", [0, 1000], ids=["at once", "in pieces"])
def test_heads_have_a_size(shared: Gateway, lines: bytes | None, status: int, piece: int) -> None:
    target = b"/web/" + b"x" * 40_000 if lines is None else b"/web/x"
    data = b"GET " + target + b" HTTP/1.1\r\nHost: gateway.test\r\n" + (lines or b"") + b"\r\n"
    with shared.caller() as caller:
        caller.send_until_refused([data[at : at + piece] for at in range(0, len(data), piece)] if piece else [data])
        got = caller.receive()
        assert got.status == status
        if status == 431:
            assert got.code == "headers_too_large"
            caller.ended()


def test_a_caller_may_not_outgrow_the_limit_by_repeating_himself(shared: Gateway) -> None:
    """The same fields as before, with a target of ten times the limit."""
    with shared.caller() as caller:
        for target, status in (("/web/x", 200), ("/web/x", 200), ("/web/" + "x" * 300_000, 431)):
            caller.send_until_refused([request(target)])
            assert caller.receive().status == status


# ---- the number of connections


def test_beyond_the_limit_clients_are_refused_and_below_it_served_again(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls}, server={"max_connections": 50})
    with crowd(gateway, 50):
        for _ in range(20):
            with gateway.caller() as caller, within(2.0):
                got = caller.send(GET).receive()
                assert got.refused() == (503, "overloaded")
                assert got.value("retry-after") == b"1"
                assert [value.lower() for value in got.values("connection")] == [b"close"]
                caller.ended()
    eventually(lambda: gateway.get("/web/x").status == 200)
    assert gateway.get("/web/x").status == 200


def test_far_beyond_the_limit_there_is_not_even_an_answer(start: Start, fleet: Fleet) -> None:
    """Refused connections linger briefly, so that clients receive the response; their number must be bounded too."""
    gateway = start({"web": fleet.urls}, server={"max_connections": 50})
    before = descriptors(gateway)
    with crowd(gateway, 700):
        eventually(lambda: descriptors(gateway) < before + 50 + 256 + 20)
    eventually(lambda: gateway.get("/web/x").status == 200, timeout=10)


# ---- clients that do not read


@patches_a_compiled_constant
@pytest.mark.parametrize("size", [64 * 1024, 300 * 1024, 32 * MiB], ids=["little", "some", "much"])
@pytest.mark.parametrize("closing", [False, True], ids=["who stay", "who would be closed"])
def test_clients_that_read_nothing_are_cut_off(start: Start, fleet: Fleet, size: int, closing: bool) -> None:
    """Independent of the size of the unread response, and of the next step on the connection."""

    def large(served: Served) -> None:
        served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    fleet.behave(large)
    patches = {"gateway.proxy.slow_peers.STALL": 1.0}
    gateway = start({"web": fleet.urls}, server={"keep_alive": "1s"}, patches=patches)
    fields = ["Connection: close"] if closing else []
    callers = [gateway.caller(receive_buffer=2048) for _ in range(4)]
    for caller in callers:
        caller.send(request("/web/x", fields=fields) * (1 if closing else 50))
    eventually(lambda: fleet.requests >= 4)
    eventually(lambda: metric(gateway, "gateway_connections") == 1, timeout=15)
    for target in fleet.targets.values():
        target.idle(20)
    for caller in callers:
        caller.close()


@patches_a_compiled_constant
def test_a_client_that_reads_slowly_but_steadily_is_not(start: Start, fleet: Fleet) -> None:
    size = 4 * MiB
    fleet.behave(lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
    gateway = start({"web": fleet.urls}, patches={"gateway.proxy.slow_peers.STALL": 1.0})
    taken = 0
    with gateway.caller(receive_buffer=64 * 1024) as caller:
        caller.send(GET)
        head = caller.receive_head()

        def slowly(piece: bytes) -> None:
            nonlocal taken
            taken += len(piece)
            time.sleep(0.02)

        assert caller.receive_body(head, slowly)[1]
    assert taken == size


# ---- half-open connections


def left(gateway: Gateway, how: Ending) -> None:
    with gateway.caller() as caller:
        caller.send(GET)
        if how == "reset":
            caller.reset()
        else:
            caller.finish_sending()
            with contextlib.suppress(NoAnswer):
                caller.receive()


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_disconnected_clients_leave_nothing(start: Start, fleet: Fleet, how: Ending) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": fleet.urls})
    before = descriptors(gateway)
    for _ in range(100):
        left(gateway, how)
    # The connection dialled for a disconnected client is kept for the next one.
    eventually(lambda: descriptors(gateway) <= before + 6)
    for target in fleet.targets.values():
        target.idle(2)


async def test_a_client_that_connects_and_disconnects_all_the_time_delays_no_other(shared: Gateway) -> None:
    gateway = shared
    stop = asyncio.Event()

    async def churn() -> None:
        while not stop.is_set():
            caller = AsyncCaller(gateway.address)
            await caller.send(GET[:20])
            caller.reset()
            await asyncio.sleep(0)

    churning = [asyncio.create_task(churn()) for _ in range(4)]
    p99 = await good_callers(gateway, 200)
    stop.set()
    await asyncio.gather(*churning)
    assert p99 < promised(1.0)
    await asyncio.to_thread(eventually, lambda: metric(gateway, "gateway_connections") == 1)
