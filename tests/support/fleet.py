"""Upstreams for load tests: several targets in one thread, efficient enough for tens of thousands of requests, with
scripted responses, faults and outages.

A behaviour is a function of a `Served`, one completely received request. Targets count the requests, and detect
requests (by their `X-Id`) that arrive more than once.
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import uvloop

from tests.support.raw import Address
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Served(asyncio.Protocol):
    """One connection, and the request in progress on it: its `head`, `target` and `body`."""

    def __init__(self, of: "Target") -> None:
        self.of = of
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.head = self.target = b""
        self.body = b""
        self.number = 0  # the number of the request on its connection
        self._buffer = bytearray()  # bytes would be copied with each piece of a large body

    # ---- for behaviours

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        self.of.loop.call_later(seconds, act)

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.of.connections.add(self)
        self.of.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.of.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = _length(head, self._buffer, end + 4)
            if length is None or len(self._buffer) < end + 4 + length:
                return
            self.body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._serve(head)

    def _serve(self, head: bytes) -> None:
        self.head, self.target = head, head.split(b" ", 2)[1]
        self.number += 1
        self.of.requests += 1
        at = head.find(b"X-Id: ")
        if at >= 0:
            self.of.seen[head[at + 6 :].split(b"\r\n", 1)[0]] += 1
        self.of.behaviour(self)


def _length(head: bytes, received: bytearray, start: int) -> int | None:
    """The length of the body that starts here; None for an incomplete chunked body."""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        if received.startswith(b"0\r\n\r\n", start):
            return 5
        end = received.find(b"\r\n0\r\n\r\n", start)
        return None if end < 0 else end + 7 - start
    at = lower.find(b"content-length: ")
    return 0 if at < 0 else int(lower[at + 16 :].split(b"\r\n", 1)[0])


Behaviour = Callable[[Served], None]


def well(served: Served) -> None:
    """Answer 200."""
    served.send(OK)


def naming(served: Served) -> None:
    """Answer 200 with the name of the target."""
    name = served.of.name.encode()
    served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))


def status(number: int) -> Behaviour:
    """Answer with this status."""
    return lambda served: served.send(b"HTTP/1.1 %d What\r\nContent-Length: 2\r\n\r\nno" % number)


def reset(served: Served) -> None:
    """Accept the request and reset the connection."""
    served.reset()


def hang(served: Served) -> None:
    """Accept the request and never answer."""


class Target:
    """One of a fleet. A change of `tls` takes effect at the next `up`."""

    def __init__(
        self, name: str, loop: asyncio.AbstractEventLoop, host: str, tls: ssl.SSLContext | None, port: int = 0
    ) -> None:
        self.name = name
        self.loop = loop
        self.behaviour: Behaviour = naming
        self.connections: set[Served] = set()
        self.accepted = 0
        self.requests = 0
        self.seen: Counter[bytes] = Counter()
        # Reserves the port while the target is down: another process could take it for an outgoing connection.
        self._reservation = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reservation.bind((host, port))
        self.address: Address = self._reservation.getsockname()[:2]
        self.tls = tls
        self._server: asyncio.AbstractServer | None = None
        self.up()

    @property
    def url(self) -> str:
        host = f"[{self.address[0]}]" if ":" in self.address[0] else self.address[0]
        return f"{'https' if self.tls else 'http'}://{host}:{self.address[1]}"

    def up(self) -> None:
        """Listen at the same address as before."""
        _run(self.loop, self._up())

    def down(self) -> None:
        """Stop like a killed process: connections are reset, new ones refused."""
        _run(self.loop, self._down())

    def stop(self) -> None:
        """Stop permanently."""
        self.down()
        self._reservation.close()

    def forget(self) -> None:
        """Restore the default behaviour and reset the counters."""
        self.behaviour = naming
        self.accepted = self.requests = 0
        self.seen.clear()

    def idle(self, connections: int = 0) -> None:
        """Wait until at most this many connections remain."""
        eventually(lambda: len(self.connections) <= connections)

    async def _up(self) -> None:
        host, port = self.address
        self._server = await self.loop.create_server(
            lambda: Served(self), host, port, ssl=self.tls, backlog=4096, reuse_port=True
        )

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for served in tuple(self.connections):
            served.reset()


class Fleet:
    """Targets by name, all served by one thread."""

    def __init__(
        self, names: Iterable[str] = "ab", *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fleet", daemon=True)
        self._thread.start()
        self.targets = {name: Target(name, self.loop, host, tls, port) for name in names}

    def __getitem__(self, name: str) -> Target:
        return self.targets[name]

    @property
    def urls(self) -> list[str]:
        return [target.url for target in self.targets.values()]

    @property
    def requests(self) -> int:
        return sum(target.requests for target in self.targets.values())

    @property
    def seen(self) -> "Counter[bytes]":
        """How often each request arrived, over all targets."""
        return sum((target.seen for target in self.targets.values()), Counter())

    def behave(self, behaviour: Behaviour) -> None:
        for target in self.targets.values():
            target.behaviour = behaviour

    def stop(self) -> None:
        for target in self.targets.values():
            target.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Awaitable[None]) -> None:
    async def wrapped() -> None:
        await work

    asyncio.run_coroutine_threadsafe(wrapped(), loop).result(10)
