"""Run an attack: its clients and its upstream, in this process and on one event loop."""

import asyncio
import base64
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import httptools

from bench.memory.attacks import Attack

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
_KEY = re.compile(rb"(?i)\r\nsec-websocket-key: (\S+)").search
_PATIENCE = 20.0  # seconds
_RETRY = 0.05


class Driver:
    """Drives one attack. `statuses` counts the responses, `sent` the requests."""

    def __init__(self, attack: Attack, address: tuple[str, int], token: str, *, connections: int = 16) -> None:
        self.attack = attack
        self.statuses: Counter[int] = Counter()
        self.sent = 0
        self.is_over = False
        self._address = address
        self._token = token
        self._connections = connections
        self._most = 0
        self._open = 0
        self._dials: set[asyncio.Task[None]] = set()
        self._enough = asyncio.Event()
        self._ended = asyncio.Event()

    async def drive(self, *, seconds: float, requests: int = 1 << 60) -> None:
        """Attack for `seconds`, or until `requests` were sent. Raises AssertionError if the gateway answers with an
        unexpected status."""
        self._most = requests
        for _ in range(self._connections):
            self._connect(self.attack.requests(self._token))
        try:
            async with asyncio.timeout(seconds):
                await self._enough.wait()
        except TimeoutError:
            self.is_over = True
        async with asyncio.timeout(_PATIENCE):
            await self._ended.wait()
        odd = {status: seen for status, seen in self.statuses.items() if status not in self.attack.statuses}
        assert self.attack.leaves or not odd, f"{self.attack.name}: answered with {odd}"
        assert self.sent, f"{self.attack.name}: nothing was sent"

    # ---- called by clients

    def next(self, requests: Iterator[bytes]) -> bytes:
        """The next request to send."""
        self.sent += 1
        if self.sent >= self._most:
            self.is_over = True
            self._enough.set()
        return next(requests)

    def lost(self, requests: Iterator[bytes]) -> None:
        """Replace a closed connection."""
        self._open -= 1
        if not self.is_over:
            self._connect(requests)
        elif not self._open:
            self._ended.set()

    def _connect(self, requests: Iterator[bytes]) -> None:
        self._open += 1
        dial = asyncio.get_running_loop().create_task(self._dial(requests))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _dial(self, requests: Iterator[bytes]) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Client(self, requests), *self._address)
        except OSError:
            await asyncio.sleep(_RETRY)
            self.lost(requests)


class _Client(asyncio.Protocol):
    """One connection of an attack. httptools calls the on_* methods."""

    def __init__(self, driver: Driver, requests: Iterator[bytes]) -> None:
        self._driver = driver
        self._attack = driver.attack
        self._requests = requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        if self._driver.is_over:
            self._transport.close()
        else:
            self._send()

    def _send(self) -> None:
        self._transport.write(self._driver.next(self._requests))
        if self._attack.leaves == "sent":
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._attack.leaves == "answered":
            self._transport.close()
        else:
            self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._driver.statuses[self._parser.get_status_code()] += 1
        if self._driver.is_over or self._attack.closes or not self._parser.should_keep_alive():
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self._driver.lost(self._requests)


class _Answering(asyncio.Protocol):
    """One connection of the gateway to the upstream. Answers each complete head."""

    def __init__(self, answers: Iterator[bytes] | None, connections: "_Connections") -> None:
        self._answers = answers
        self._connections = connections
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if b"\r\n\r\n" not in self._data:
            return
        self._transport.write(next(self._answers) if self._answers is not None else _answer_to(self._data))
        self._data = b""


def _answer_to(request: bytes) -> bytes:
    if request.startswith(b"GET /open/events"):
        return EVENTS
    key = _KEY(request)
    if key is None:
        return PLAIN
    digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    return SWITCHED + base64.b64encode(digest) + b"\r\n\r\n"


@asynccontextmanager
async def upstream_of(attack: Attack | None, port: int = 0) -> AsyncIterator[asyncio.Server]:
    """Run the upstream of an attack."""
    answers = None if attack is None or attack.answers is None else attack.answers()
    loop = asyncio.get_running_loop()
    connections = _Connections()
    server = await loop.create_server(lambda: _Answering(answers, connections), "127.0.0.1", port, backlog=4096)
    try:
        yield server
    finally:
        server.close()
        await connections.close()


class _Connections:
    """The open connections of one side."""

    def __init__(self) -> None:
        self._transports: set[asyncio.Transport] = set()
        self._none = asyncio.Event()
        self._none.set()

    def add(self, transport: asyncio.Transport) -> None:
        self._transports.add(transport)
        self._none.clear()

    def discard(self, transport: asyncio.Transport) -> None:
        self._transports.discard(transport)
        if not self._transports:
            self._none.set()

    async def close(self) -> None:
        for transport in self._transports:
            transport.abort()
        await self._none.wait()


class Idle:
    """Connections that stay open after one response."""

    def __init__(self) -> None:
        self._connections = _Connections()

    async def add(self, address: tuple[str, int], request: bytes, count: int, *, at_once: int = 5) -> None:
        """Open `count` more. Raises AssertionError unless each is answered with 101 or 200."""
        for begin in range(0, count, at_once):
            size = min(at_once, count - begin)
            await asyncio.gather(*[self._open(address, request) for _ in range(size)])

    async def close(self) -> None:
        await self._connections.close()

    async def _open(self, address: tuple[str, int], request: bytes) -> None:
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(lambda: _Idler(self._connections), *address)
        transport.write(request)
        async with asyncio.timeout(_PATIENCE):
            answer = await client.answer
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), answer[:200]


class _Idler(asyncio.Protocol):
    def __init__(self, connections: _Connections) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self._transport)
        if not self.answer.done():
            self.answer.set_result(b"the connection was closed")
