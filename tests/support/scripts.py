"""Scripts for `RecordingUpstream.on`: correct and incorrect responses."""

import asyncio
import zlib
from collections.abc import Iterable
from typing import Literal

from tests.support.recording import Exchange, Script
from tests.support.waiting import SharedEvent, eventually
from tests.support.wording import as_bytes

Then = Literal["keep", "fin", "reset"]


def response(
    status: int = 200, fields: Iterable[str | bytes] = (), body: bytes | None = b"", *, reason: str = "Fine"
) -> bytes:
    """A response as bytes, with a Content-Length unless `body` is None."""
    lines = [b"HTTP/1.1 %d %s" % (status, reason.encode()), *(as_bytes(line) for line in fields)]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def answer(status: int = 200, fields: Iterable[str | bytes] = (), body: bytes = b"") -> Script:
    """Read the whole request, then send an ordinary response."""
    return raw(response(status, fields, body))


def raw(*pieces: bytes, then: Then = "keep", pause: float = 0.0) -> Script:
    """Read the whole request, then send exactly these bytes, with a pause of that many seconds between them."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await _send(exchange, pieces, pause)
        await _finish(exchange, then, pause)

    return script


def early(*pieces: bytes, then: Then = "fin") -> Script:
    """Send these bytes as soon as the request head is complete. With "keep" the rest of the body is read afterwards."""

    async def script(exchange: Exchange) -> None:
        await _send(exchange, pieces, 0.0)
        if then == "keep":
            await exchange.body()
        await _finish(exchange, then, 0.0)

    return script


def silent() -> Script:
    """Read the whole request and never answer; the exchange ends when the gateway closes the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.left()

    return script


def stale(first: Script) -> Script:
    """Answer the first request of a connection with `first`; close the connection at the next one without a
    response."""

    async def script(exchange: Exchange) -> None:
        if exchange.request.link.requests == 1:
            await first(exchange)
        else:
            await exchange.body()
            exchange.hang_up()

    return script


def in_turn(*scripts: Script) -> Script:
    """Answer the first request with the first script and so on; the last one repeats."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


class HeldConnection:
    """A script that waits, after the head or within the body, until the test releases it.

    `before` is sent at once, `after` when `release` is called. The script ends if the gateway closes the connection
    first.
    """

    def __init__(self, before: bytes = b"", after: bytes = b"", *, then: Then = "keep") -> None:
        self._before = before
        self._after = after
        self._then: Then = then
        self._released = SharedEvent()
        self.waiting = 0
        self.done = False  # `after` has been sent

    def release(self) -> None:
        self._released.set()

    def reached(self, count: int = 1) -> None:
        """Wait until this many requests are held here."""
        eventually(lambda: self.waiting >= count)

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(self._before)
        self.waiting += 1
        leaving = asyncio.ensure_future(exchange.left())
        released = asyncio.ensure_future(self._released.wait())
        try:
            await asyncio.wait({leaving, released}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                await leaving
        finally:
            leaving.cancel()
            released.cancel()
            await asyncio.wait({leaving, released})
        await exchange.send(self._after)
        self.done = True
        await _finish(exchange, self._then, 0.0)


class LongBody:
    """A script that sends a long body as fast as possible; `sent` counts the bytes sent so far.

    The body consists of blocks. With `chunked` each block is a chunk; each write sends `together` blocks.
    """

    def __init__(self, size: int, block: bytes, *, chunked: bool = False, together: int = 1) -> None:
        self.size = size
        self.block = block
        self.chunked = chunked
        self.together = together
        self.sent = 0

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.body()
        framing = "Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {self.size}"
        await exchange.send(response(200, [framing], None))
        block = b"%x\r\n%s\r\n" % (len(self.block), self.block) if self.chunked else self.block
        for _ in range(self.size // len(self.block) // self.together):
            await exchange.send(block * self.together)
            self.sent += len(self.block) * self.together
        if self.chunked:
            await exchange.send(b"0\r\n\r\n")


class UploadCounter:
    """A script that reads a long body once `open` is called, and answers with its size, without storing it."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.taken = 0
        self.sum = 0
        self._opened = SharedEvent()
        if is_open:
            self._opened.set()

    def open(self) -> None:
        self._opened.set()

    async def __call__(self, exchange: Exchange) -> None:
        await self._opened.wait()
        await exchange.body(self._take)
        await exchange.send(response(200, ["Content-Type: text/plain"], b"%d" % self.taken))

    def _take(self, piece: bytes) -> None:
        self.taken += len(piece)
        self.sum = zlib.adler32(piece, self.sum)


async def _send(exchange: Exchange, pieces: Iterable[bytes], pause: float) -> None:
    for number, piece in enumerate(pieces):
        if number and pause:
            await asyncio.sleep(pause)
        await exchange.send(piece)


async def _finish(exchange: Exchange, then: Then, pause: float) -> None:
    if then == "fin":
        exchange.hang_up()
    elif then == "reset":
        await asyncio.sleep(pause or 0.05)  # sent bytes must be read before an RST discards them
        exchange.reset()
