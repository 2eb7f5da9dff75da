"""Idle connections closed by the target: by an announced limit, by an unannounced one, or at any moment."""

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.keep_alive.servers import SERVERS
from gateway.settings.model import TlsSettings
from tests.proxy.upstreams.harness import Harness, Outcome, ended, running, settings
from tests.support.fleet import OK, Fleet, Served
from tests.support.upstreams import Authority
from tests.support.waiting import promised, until

REPEATABLE = ["GET", "HEAD", "DELETE"]
UNREPEATABLE = ["POST", "PATCH", "PUT"]


async def ask(harness: Harness, method: str, **options: object) -> Outcome:
    """A request, with a body if its method has one."""
    return await harness.ask(method, **({"body": b"x"} if method in UNREPEATABLE else {}), **options)


# ---- the limit


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_is_idle_for_a_moment_is_reused(fleet: Fleet, method: str) -> None:
    async with running(settings(fleet["a"].url)) as harness:
        for _ in range(20):
            assert (await ask(harness, method)).status == 200
    assert fleet["a"].accepted == 1


@pytest.mark.parametrize("announced", ["", "Keep-Alive: timeout=5\r\n", "Keep-Alive: timeout=999999999\r\n"])
async def test_an_upload_uses_a_connection_when_others_have_survived_twice_its_time(
    fleet: Fleet, announced: str
) -> None:
    response = OK.replace(b"\r\n\r\n", f"\r\n{announced}\r\n".encode())
    fleet["a"].behaviour = lambda served: served.send(response)
    async with running(settings(fleet["a"].url)) as harness:
        await harness.ask()
        await asyncio.sleep(0.4)
        assert (await ask(harness, "POST")).status == 200
        assert fleet["a"].accepted == 2
        await asyncio.sleep(0.6)
        accepted = fleet["a"].accepted
        for _ in range(3):
            assert (await ask(harness, "POST")).status == 200
            await asyncio.sleep(0.15)
    assert fleet["a"].accepted <= accepted + 1


async def test_a_connection_is_closed_when_it_is_idle_for_longer_than_keep_alive(fleet: Fleet) -> None:
    async with running(settings(fleet["a"].url, keep_alive=0.3)) as harness:
        assert (await harness.ask()).status == 200
        started = time.monotonic()
        await asyncio.to_thread(fleet["a"].idle)
        assert 0.25 < time.monotonic() - started < promised(1.0)
        assert harness.engine.open_connections == 0


async def test_a_connection_that_is_too_old_is_not_reused_before_it_is_closed(fleet: Fleet) -> None:
    """The limit is checked four times a second, and exactly when a request arrives."""
    async with running(settings(fleet["a"].url, keep_alive=0.05)) as harness:
        for _ in range(4):
            assert (await harness.ask()).status == 200
            await asyncio.sleep(0.06)
    assert fleet["a"].accepted == 4


@pytest.mark.parametrize(("announced", "closed"), [("timeout=1, max=100", True), ("timeout=75", False)])
async def test_an_announced_limit_shortens_the_configured_one(fleet: Fleet, announced: str, closed: bool) -> None:
    response = OK.replace(b"\r\n\r\n", f"\r\nKeep-Alive: {announced}\r\n\r\n".encode())
    fleet["a"].behaviour = lambda served: served.send(response)
    async with running(settings(fleet["a"].url)) as harness:
        assert (await harness.ask()).status == 200
        if closed:
            await until(lambda: harness.engine.open_connections == 0)
        else:
            await asyncio.sleep(0.9)
            assert harness.engine.open_connections == 1


async def test_a_target_that_closes_sooner_shortens_the_limit(fleet: Fleet) -> None:
    closes: list[float] = []

    def close(served: Served) -> None:
        if not served.transport.is_closing():
            closes.append(time.monotonic())
            served.close()

    def close_after_0_4_s(served: Served) -> None:
        served.send(OK)
        served.later(0.4, lambda: close(served))

    fleet["a"].behaviour = close_after_0_4_s
    async with running(settings(fleet["a"].url)) as harness:
        for _ in range(2):
            assert (await harness.ask()).status == 200
            await asyncio.to_thread(fleet["a"].idle)
    assert len(closes) == 1, "the second connection was closed by the gateway"


async def test_an_upload_is_not_sent_on_a_connection_that_was_idle_for_long(fleet: Fleet) -> None:
    async with running(settings(fleet["a"].url, keep_alive=0.4)) as harness:
        await harness.ask()
        await asyncio.sleep(0.2)
        assert (await ask(harness, "POST")).status == 200
        assert fleet["a"].accepted == 2
        await asyncio.sleep(0.2)
        assert (await harness.ask()).status == 200
        assert fleet["a"].accepted == 2, "a request that can be repeated uses either"


async def test_an_upload_gets_a_new_connection_where_old_ones_take_all_places(fleet: Fleet) -> None:
    async with running(settings(fleet["a"].url, keep_alive=0.4, max_connections=3)) as harness:
        await harness.ask_many(3, at_once=3)
        accepted = fleet["a"].accepted
        await asyncio.sleep(0.2)
        outcomes = await asyncio.gather(*(ask(harness, "POST") for _ in range(6)))
        assert {one.status for one in outcomes} == {200}
        assert harness.engine.open_connections <= 3
    assert accepted < fleet["a"].accepted <= accepted + 3


# ---- unread bytes


def close(served: Served) -> None:
    served.close()


def announce_and_close(served: Served) -> None:
    served.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    served.close()


def answer_unasked(served: Served) -> None:
    served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")


ENDS: dict[str, Callable[[Served], None]] = {
    "an end": close,
    "a reset": lambda served: served.reset(),
    "a response to no request": answer_unasked,
    "a time-out response and an end": announce_and_close,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("method", [*REPEATABLE, *UNREPEATABLE])
async def test_a_connection_with_something_unread_is_not_used(
    fleet: Fleet, method: str, end: Callable[[Served], None]
) -> None:
    """The kernel has received it, and the event loop has not polled the socket since."""
    async with running(settings(fleet["a"].url)) as harness:
        await harness.ask()
        await asyncio.sleep(0.06)
        (served,) = fleet["a"].connections
        fleet["a"].loop.call_soon_threadsafe(end, served)
        time.sleep(0.05)  # the event loop of the gateway must not run
        outcome, _ = harness.begin(method, body=b"x" if method in UNREPEATABLE else None)
        await ended(outcome)
        assert (outcome.status, outcome.content) == (200, b"" if method == "HEAD" else b"a")
    assert (fleet["a"].accepted, fleet["a"].requests) == (2, 2)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_an_upload_is_never_sent_on_a_connection_with_something_unread(
    fleet: Fleet, end: Callable[[Served], None]
) -> None:
    """For any idle time."""
    async with running(settings(fleet["a"].url)) as harness:
        for _ in range(5):
            await harness.ask()
            (served,) = fleet["a"].connections
            fleet["a"].loop.call_soon_threadsafe(end, served)
            time.sleep(0.01)  # the event loop of the gateway must not run
            outcome, _ = harness.begin("POST", body=b"x")
            assert (await ended(outcome)).content == b"a"
    assert fleet["a"].accepted == 6


async def test_a_tls_connection_with_something_unread_is_not_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    fleet = Fleet("a", tls=authority.context("127.0.0.1"))
    try:
        async with running(settings(fleet["a"].url, tls=TlsSettings(ca=str(authority.file)))) as harness:
            for _ in range(3):
                assert (await ask(harness, "POST")).status == 200
            assert fleet["a"].accepted == 1, "session tickets are no reason"
            (served,) = fleet["a"].connections
            fleet["a"].loop.call_soon_threadsafe(served.close)
            time.sleep(0.05)
            outcome, _ = harness.begin("POST", body=b"x")
            assert (await ended(outcome)).status == 200
    finally:
        fleet.stop()


# ---- servers that close idle connections, under load


class ClosingServer:
    """A threaded server with plain sockets that closes connections after `idle` seconds without a request, and stops
    reading a moment before."""

    def __init__(self, idle: float) -> None:
        self._idle = idle
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self._idle)
        buffer = b""
        with connection, contextlib.suppress(OSError):
            while True:
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    time.sleep(self._idle / 10)
                    return
                if not data:
                    return
                buffer += data
                if buffer.endswith(b"\r\n\r\nhello"):
                    buffer = b""
                    connection.sendall(OK)

    def stop(self) -> None:
        self._listener.close()


async def posts(url: str, idle: float, spread: float, *, clients: int, seconds: float) -> Counter[str]:
    """The outcomes of POSTs with pauses around `idle` seconds. Each client has its own connection."""
    outcomes: Counter[str] = Counter()

    async def client(seed: int) -> None:
        chance = random.Random(seed)
        async with running(settings(url)) as harness:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(max(0.0, idle + chance.uniform(-spread, spread)))
                outcome = await harness.ask("POST", body=b"hello")
                outcomes[outcome.code or str(outcome.status)] += 1

    await asyncio.gather(*(client(seed) for seed in range(clients)))
    return outcomes


@pytest.mark.parametrize("idle", [0.4, 0.8])
async def test_no_post_meets_a_connection_that_a_server_is_just_closing(idle: float) -> None:
    server = ClosingServer(idle)
    outcomes = await posts(server.url, idle, idle / 5, clients=12, seconds=2.0)
    server.stop()
    assert set(outcomes) == {"200"}
    assert outcomes["200"] >= 12


@pytest.mark.parametrize("name", SERVERS)
async def test_no_post_fails_at_a_real_server_that_closes_idle_connections(name: str, tmp_path: Path) -> None:
    """`python -m bench.keep_alive` sends 10,000 to each."""
    server = SERVERS[name]
    if server.missing():
        pytest.skip(f"{name} is not installed")
    process, port = await asyncio.to_thread(server.start, 1.0, tmp_path)
    try:
        outcomes = await posts(f"http://127.0.0.1:{port}", 1.0, 0.15, clients=20, seconds=1.6)
    finally:
        await asyncio.to_thread(process.stop)
    assert set(outcomes) == {"200"}
    assert outcomes["200"] >= 20
