"""Many concurrent clients: each sends one request after another, and all results are recorded."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from gateway.ticker import PERIOD
from tests.support.raw import Address
from tests.support.waiting import until

Stage = Literal["connect", "answer", "body"]


class Lost(Exception):
    """A request without a complete response. `stage` is the point of failure: no connection, no response, or a
    truncated response. `silence` is the time in seconds between the last request on the connection, or its start, and
    this request."""

    def __init__(self, stage: Stage, error: BaseException, silence: float = 0.0) -> None:
        super().__init__(f"{stage}: {error!r} after {silence:.3f} s")
        self.stage: Stage = stage
        self.silence = silence


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete response, and its duration in seconds."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return b"\r\nconnection: close" in self.head.lower()


class AsyncCaller:
    """A client that keeps its connection as long as possible."""

    def __init__(self, address: Address, *, keep: bool = True, timeout: float = 20.0) -> None:
        self._address = address
        self._keep = keep
        self._timeout = timeout
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used_at = 0.0  # the time of the last request on the connection, or of its start

    async def ask(self, data: bytes) -> Answered:
        """Send a request and read its response. Raises Lost."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answered = await self._ask(data, started)
        except BaseException:
            self.close()
            raise
        if answered.closes or not self._keep:
            self.close()
        return answered

    async def _ask(self, data: bytes, started: float) -> Answered:
        stage: Stage = "connect"
        silence = 0.0
        try:
            await self.connect()
            assert self._reader is not None and self._writer is not None
            stage = "answer"
            before, self._used_at = self._used_at, time.monotonic()
            silence = self._used_at - before
            self._writer.write(data)
            head = await self._reader.readuntil(b"\r\n\r\n")
            stage = "body"
            body = await self._body(head, has_body=not data.startswith(b"HEAD"))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Lost(stage, error, silence) from None
        return Answered(int(head[9:12]), head, body, time.monotonic() - started)

    async def connect(self) -> None:
        """Connect unless connected."""
        if self._writer is None:
            self._used_at = time.monotonic()
            self._reader, self._writer = await asyncio.open_connection(*self._address)

    async def send(self, data: bytes) -> None:
        """Send bytes without waiting for a response. Raises OSError."""
        await self.connect()
        assert self._writer is not None
        self._writer.write(data)

    async def next_piece(self) -> bytes:
        """The next bytes, b"" at the end."""
        assert self._reader is not None
        return await self._reader.read(65536)

    async def _body(self, head: bytes, *, has_body: bool) -> bytes:
        assert self._reader is not None
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length: ")
        if not has_body or lower[9:12] in (b"204", b"304"):
            return b""
        if at >= 0:
            return await self._reader.readexactly(int(lower[at + 18 :].split(b"\r\n", 1)[0]))
        if b"\r\ntransfer-encoding: chunked" not in lower:
            return await self._reader.read()
        pieces = []
        while size := int(await self._reader.readuntil(b"\n"), 16):
            pieces.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readuntil(b"\r\n")
        return b"".join(pieces)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def reset(self) -> None:
        """Reset the connection."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                sock: socket.socket = self._writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        self._reader = self._writer = None


@dataclass
class Load:
    """Concurrent clients that send the requests of `make`, given the number of the request, while the context lasts.

    Clients without a connection retry a little later, so a restarting gateway loses no client. A `pause` in seconds
    after each response leaves CPU time to processes that start at the same time.
    """

    address: Address
    make: Callable[[int], bytes]
    callers: int = 16
    keep: bool = True
    pause: float = 0.0
    answers: list[Answered] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    begun: int = 0
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _stopping: bool = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(self.callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self) -> None:
        caller = AsyncCaller(self.address, keep=self.keep)
        while not self._stopping:
            self.begun += 1
            try:
                self.answers.append(await caller.ask(self.make(self.begun)))
            except Lost as lost:
                self.lost.append(lost)
                if lost.stage == "connect":
                    await asyncio.sleep(0.02)
            await asyncio.sleep(self.pause)
        caller.close()

    async def more(self, count: int) -> None:
        """Wait for this many more responses."""
        expected = len(self.answers) + count
        await until(lambda: len(self.answers) >= expected, within=60.0)

    @property
    def lost_in_drain(self) -> list[Lost]:
        """The lost requests that a drain must not lose. It closes a connection without a request after PERIOD, so this
        process must not have been slower than that."""
        return [lost for lost in self.lost if lost.stage != "connect" and lost.silence < PERIOD]

    @property
    def statuses(self) -> "Counter[int]":
        return Counter(answer.status for answer in self.answers)

    @property
    def failures(self) -> list[object]:
        """All failures after a request was sent."""
        failed: list[object] = [lost for lost in self.lost if lost.stage != "connect"]
        return failed + [answer for answer in self.answers if answer.status >= 500]

    def percentile(self, share: float) -> float:
        """The duration in seconds within which this share of the requests was answered."""
        seconds = sorted(answer.seconds for answer in self.answers)
        return seconds[min(len(seconds) - 1, int(len(seconds) * share))]
