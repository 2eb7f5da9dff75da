"""Thousands of requests to upstreams with every kind of failure, from clients that disconnect at any time:
afterwards all resources are released."""

import asyncio
import contextlib
import random
import time
from collections import Counter

import psutil
import uvloop

from tests.support.fleet import OK, Behaviour, Fleet, Served
from tests.support.load import AsyncCaller, Lost
from tests.support.raw import MiB
from tests.support.scale import scaled
from tests.support.small import Patched, Start, descriptors
from tests.support.upstreams import Refusing
from tests.support.waiting import eventually
from tests.support.wording import request

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _then(data: bytes, end: str) -> Behaviour:
    """Send this, and a moment later end the connection in this way."""

    def behave(served: Served) -> None:
        served.send(data)
        served.later(0.002, served.reset if end == "reset" else served.close)

    return behave


FAULTS: dict[bytes, Behaviour] = {
    b"reset-before-the-head": lambda served: served.reset(),
    b"closed-before-the-head": lambda served: served.close(),
    b"reset-in-the-head": _then(b"HTTP/1.1 200 OK\r\nContent-Le", "reset"),
    b"reset-in-the-body": _then(LENGTH + b"half", "reset"),
    b"closed-in-the-body": _then(LENGTH + b"half", "close"),
    b"closed-in-a-chunk": _then(CHUNKS + b"ff\r\nhalf", "close"),
    b"garbage": lambda served: served.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    b"garbage-in-a-chunk": lambda served: served.send(CHUNKS + b"zz\r\n"),
    b"too-much": lambda served: served.send(OK + OK),
    b"two-lengths": lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    b"busy": lambda served: served.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
    b"slow": lambda served: served.later(0.03, lambda: served.send(OK)),
    b"too-slow": lambda served: None,
    b"slow-in-the-body": lambda served: served.send(LENGTH + b"half"),
}
GOOD: dict[bytes, Behaviour] = {
    b"length": lambda served: served.send(OK),
    b"chunks": lambda served: served.send(CHUNKS + b"2\r\nok\r\n0\r\n\r\n"),
    b"until-the-end": _then(b"HTTP/1.1 200 OK\r\n\r\nok", "close"),
    b"large": lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000),
}
PLACES = 24  # connections of the upstream
HELD = (
    "Task",
    "UpstreamConnection",
    "UpstreamExchange",
    "ResponseWriter",
    "ClientConnection",
    "Tunnel",
    "TCPTransport",
)


def by_name(served: Served) -> None:
    """Behave as named by the last segment of the path."""
    name = served.target.rpartition(b"/")[2]
    (FAULTS.get(name) or GOOD[name])(served)


class RandomClients:
    """Clients that send random requests, and disconnect at random times. Deterministic by seed."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.left = 0

    async def run(self, requests: int, callers: int = 40) -> None:
        self.left = requests
        await asyncio.gather(*(self._caller() for _ in range(callers)))

    async def _caller(self) -> None:
        caller = AsyncCaller(self.address)
        while self.left > 0:
            self.left -= 1
            data = self._request()
            if self.random.random() < 0.05:
                await self._leave(caller, data)
                continue
            try:
                self.outcomes[str((await caller.ask(data)).status)] += 1
            except Lost as lost:
                self.outcomes[lost.stage] += 1
        caller.close()

    def _request(self) -> bytes:
        draw = self.random.random()
        if draw < 0.02:
            return request("/refusing/x")
        kinds = FAULTS if draw < 0.30 else GOOD
        kind = self.random.choice(list(kinds)).decode()
        method = self.random.choice(("GET", "GET", "POST", "PUT"))
        body = b"x" * self.random.choice((0, 10, 5000)) if method != "GET" else None
        return request(f"/web/{kind}", method=method, body=body)

    async def _leave(self, caller: AsyncCaller, data: bytes) -> None:
        """Disconnect between the first byte sent and the last byte received."""
        with contextlib.suppress(OSError):
            await caller.send(data[: self.random.randint(1, len(data))])
            await asyncio.sleep(self.random.choice((0.0, 0.001, 0.005)))
        self.outcomes["left"] += 1
        (caller.reset if self.random.random() < 0.5 else caller.close)()


REQUESTS = scaled(12_000)


def at_rest(gateway: Patched, fleet: Fleet) -> None:
    """Wait until no request is in progress."""
    eventually(lambda: gateway.census()["Answer"] <= 1, timeout=20, every=0.2)
    for target in fleet.targets.values():
        target.idle(PLACES)


def test_requests_with_30_percent_faults_leave_nothing_behind(start: Start, fleet: Fleet) -> None:
    fleet.behave(by_name)
    refusing = Refusing()
    web = {
        "targets": fleet.urls[:2],
        "eject": None,
        "max_connections": PLACES,
        "response_timeout": "60ms",
        "idle_timeout": "60ms",
    }
    patient = {"path": "/patient/**", "auth": "none", "upstream": "web", "response_timeout": "10s"}
    upstreams = {"web": web, "refusing": {"targets": [refusing.url], "eject": None}}
    gateway = start(upstreams, routes=[patient], patches={})
    assert isinstance(gateway, Patched) and gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    uvloop.run(RandomClients(gateway.address, 1).run(scaled(4000)))
    at_rest(gateway, fleet)
    before, files, memory = gateway.census(), descriptors(gateway), process.memory_info().rss
    clients, started = RandomClients(gateway.address, 2), time.monotonic()
    uvloop.run(clients.run(REQUESTS))
    took = time.monotonic() - started
    at_rest(gateway, fleet)
    after, growth = gateway.census(), process.memory_info().rss - memory
    print(f"\n{REQUESTS} requests in {took:.1f} s: {dict(clients.outcomes)}")
    print(f"memory {growth / 1024:+.0f} KiB, descriptors {descriptors(gateway) - files:+d}")
    print({name: after[name] - before[name] for name in HELD})
    refusing.close()
    assert clients.outcomes["connect"] == 0
    assert 0.6 < clients.outcomes["200"] / REQUESTS < 0.9
    assert descriptors(gateway) <= files + 2 * PLACES, "no more than its pools may hold"
    assert growth < 8 * MiB
    for name in HELD:
        assert after[name] <= before[name] + 2 * PLACES, name
    assert after["Answer"] <= 1
    assert after["Task"] <= before["Task"]
    # After any outcome of a request, its connection in the pool is available again.
    fleet.behave(lambda served: served.later(0.5, lambda: served.send(OK)))
    assert uvloop.run(all_at_once(gateway.address, 2 * PLACES)) == Counter({200: 2 * PLACES})
    assert [len(target.connections) for target in fleet.targets.values()] == [PLACES, PLACES, 0]


async def all_at_once(address: tuple[str, int], count: int) -> "Counter[int]":
    callers = [AsyncCaller(address) for _ in range(count)]
    answers = await asyncio.gather(*(caller.ask(request("/patient/x")) for caller in callers))
    for caller in callers:
        caller.close()
    return Counter(answer.status for answer in answers)
