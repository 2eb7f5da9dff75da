"""WebSocket in raw frames (RFC 6455): a client that sends exactly the given frames, and the upstream end.

Independent of the gateway's own code, and as simple as possible: frames are encoded and decoded byte by byte.
"""

import asyncio
import base64
import hashlib
import os
import queue
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from tests.support.processes import Gateway
from tests.support.raw import Address, Answer, Caller, Ending
from tests.support.recording import READ_LIMIT, Exchange, Received, Script
from tests.support.waiting import SharedEvent, eventually
from tests.support.wording import as_bytes, request

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3, and its accept value
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Frame(NamedTuple):
    """One frame. `rsv` are the three reserved bits as a number."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = False

    @property
    def closing(self) -> tuple[int | None, str]:
        """Code and reason of a Close; the code is None if missing."""
        assert self.opcode == CLOSE, self
        if not self.payload:
            return None, ""
        return struct.unpack("!H", self.payload[:2])[0], self.payload[2:].decode()


def close(code: int | None = None, reason: str | bytes = "") -> Frame:
    """A Close frame."""
    payload = b"" if code is None else struct.pack("!H", code) + as_utf8(reason)
    return Frame(CLOSE, payload)


def text(message: str) -> Frame:
    return Frame(TEXT, message.encode())


def as_utf8(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def encode(*frames: Frame, masked: bool = False) -> bytes:
    """The frames as bytes; frames to a server are masked."""
    return b"".join(
        _masked(frame) if masked else head_of(len(frame.payload), frame) + frame.payload for frame in frames
    )


def head_of(length: int, frame: Frame, *, masked: bool = False) -> bytes:
    """The header of a frame with a payload of that length, independent of the frame's own payload; without the mask."""
    first = frame.fin << 7 | frame.rsv << 4 | frame.opcode
    bit = masked << 7
    if length < 126:
        return bytes((first, bit | length))
    if length < 65536:
        return struct.pack("!BBH", first, bit | 126, length)
    return struct.pack("!BBQ", first, bit | 127, length)


def _masked(frame: Frame) -> bytes:
    mask = os.urandom(4)
    return head_of(len(frame.payload), frame, masked=True) + mask + unmask(frame.payload, mask)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """RFC 6455 5.3: masking twice restores the payload."""
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return whole.to_bytes(len(payload), "big")


class Decoder:
    """Frames from a stream of bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._data += data
        frames, at = [], 0
        while (found := self._one(at)) is not None:
            frame, at = found
            frames.append(frame)
        del self._data[:at]
        return frames

    @property
    def held(self) -> int:
        """The number of bytes of an incomplete frame."""
        return len(self._data)

    def _one(self, at: int) -> tuple[Frame, int] | None:
        """The frame that begins at `at`, and its end."""
        data = self._data
        if len(data) < at + 2:
            return None
        first, masked, length = data[at], bool(data[at + 1] & 0x80), data[at + 1] & 0x7F
        at += 2
        extra = {126: 2, 127: 8}.get(length, 0)
        if len(data) < at + extra + 4 * masked:
            return None
        if extra:
            length, at = int.from_bytes(data[at : at + extra], "big"), at + extra
        mask, at = bytes(data[at : at + 4 * masked]), at + 4 * masked
        if len(data) < at + length:
            return None
        payload = bytes(data[at : at + length])
        payload = unmask(payload, mask) if masked else payload
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, masked), at + length


# ---- the client


def handshake(
    target: str | bytes,
    *fields: str | bytes,
    upgrade: str | None = "websocket",
    connection: str | None = "Upgrade",
    key: str | None = KEY,
    version: str | None = "13",
    **others: Any,
) -> bytes:
    """A handshake as bytes; None omits a field. `others` are arguments of `request`."""
    named = {
        "Upgrade": upgrade,
        "Connection": connection,
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": version,
    }
    lines = [f"{name}: {value}" for name, value in named.items() if value is not None]
    return request(target, fields=[*lines, *fields], **others)


class Socket(Caller):
    """A client's WebSocket. `answer` is the response to its handshake."""

    def __init__(
        self, where: Gateway | Address, target: str, *fields: str | bytes, receive_buffer: int | None = None
    ) -> None:
        address = where if isinstance(where, tuple) else where.address
        super().__init__(address, receive_buffer=receive_buffer)
        self.send(handshake(target, *fields))
        self.answer: Answer = self.receive()
        if self.answer.status != 101:
            self.close()
            raise AssertionError(f"no WebSocket: {self.answer.status} {self.answer.body!r}")
        self._decoder = Decoder()
        self._frames: list[Frame] = []

    def say(self, *frames: Frame) -> Self:
        """Send frames, masked as required for a client."""
        self.send(encode(*frames, masked=True))
        return self

    def frame(self, within: float = 5.0) -> Frame:
        """The next frame."""
        self.socket.settimeout(within)
        while not self._frames:
            if not self._buffer:
                self._more()
            self._frames += self._decoder.feed(self.read_pending())
        return self._frames.pop(0)

    def read(self, count: int) -> bytes:
        """The next bytes, as in `Caller`. `frame` continues with the frames in them."""
        data = super().read(count)
        self._frames += self._decoder.feed(data)
        return data

    @property
    def incomplete(self) -> int:
        """The number of received bytes of a frame whose end has not arrived."""
        return self._decoder.held

    def message(self, within: float = 5.0) -> bytes:
        """The payload of the next message, assembled from its frames; control frames are skipped."""
        payload = b""
        while True:
            frame = self.frame(within)
            if frame.opcode in (CONT, TEXT, BINARY):
                payload += frame.payload
                if frame.fin:
                    return payload

    def closed(self, within: float = 5.0) -> tuple[int | None, str]:
        """Code and reason of the next Close, after any other frames."""
        while (frame := self.frame(within)).opcode != CLOSE:
            pass
        return frame.closing

    def ended(self, within: float = 5.0) -> tuple[Ending, bytes]:
        """The way the connection ends, and the bytes before it."""
        ending, rest = super().ended(within)
        return ending, b"".join(encode(frame) for frame in self._frames) + rest


# ---- the upstream end


def accept_of(received: Received) -> bytes:
    """RFC 6455 4.2.2: the accept value for the key of this handshake."""
    (key,) = received.values("sec-websocket-key")
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    return base64.b64encode(digest)


def switching(received: Received, *fields: str | bytes, accept: bytes | None = None) -> bytes:
    """The 101 response to this handshake."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + (accept or accept_of(received)),
        *(as_bytes(field) for field in fields),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class FarEnd:
    """A script for the upstream end of one WebSocket, controlled by the test. `fields` are added to its 101.

    `ended` is the way the gateway ended the connection; None while it is open.
    """

    def __init__(self, *fields: str | bytes, reads: bool = True) -> None:
        self._fields = fields
        self._exchange: Exchange | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._frames: queue.Queue[Frame] = queue.Queue()
        self._leaving: asyncio.Event | None = None
        self._reading = SharedEvent()
        if reads:
            self._reading.set()
        self.ended: Ending | None = None
        self.taken = 0

    async def __call__(self, exchange: Exchange) -> None:
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        await exchange.send(switching(exchange.request, *self._fields))
        self._exchange = exchange
        await self._reading.wait()
        reading = asyncio.ensure_future(self._read(exchange))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            leaving.cancel()

    async def _read(self, exchange: Exchange) -> None:
        decoder = Decoder()
        try:
            while data := await exchange.reader.read(READ_LIMIT):
                self.taken += len(data)
                for frame in decoder.feed(data):
                    self._frames.put(frame)
            self.ended = "fin"
        except ConnectionResetError:
            self.ended = "reset"

    def read(self) -> None:
        """Begin to read, if `reads` was False."""
        self._reading.set()

    @property
    def exchange(self) -> Exchange:
        """The exchange, as soon as the WebSocket is open."""
        exchange = eventually(lambda: self._exchange)
        assert exchange is not None
        return exchange

    def say(self, *frames: Frame) -> None:
        """Send frames, unmasked as required for a server."""
        self.send(encode(*frames))

    def send(self, data: bytes) -> None:
        exchange = self.exchange
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(exchange.send(data), self._loop).result(30)

    def frame(self, within: float = 5.0) -> Frame:
        """The next received frame."""
        try:
            return self._frames.get(timeout=within)
        except queue.Empty:
            raise AssertionError(f"no frame came within {within} s; the connection: {self.ended}") from None

    def heard(self) -> list[Frame]:
        """The received frames that were not read yet."""
        frames = []
        while not self._frames.empty():
            frames.append(self._frames.get_nowait())
        return frames

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection with a FIN or an RST."""
        exchange = self.exchange
        assert self._loop is not None and self._leaving is not None
        if reset:
            self._loop.call_soon_threadsafe(exchange.reset)
        self._loop.call_soon_threadsafe(self._leaving.set)

    def gone(self, within: float = 5.0) -> Ending:
        """The way the gateway ended the connection."""
        ended = eventually(lambda: self.ended, timeout=within)
        assert ended is not None
        return ended


def echoing(*fields: str | bytes) -> Script:
    """A script that echoes every frame, answers a Ping, and answers a Close and hangs up."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(switching(exchange.request, *fields))
        decoder = Decoder()
        while data := await exchange.reader.read(READ_LIMIT):
            for frame in decoder.feed(data):
                answer = frame._replace(opcode=PONG if frame.opcode == PING else frame.opcode)
                await exchange.send(encode(answer))
                if frame.opcode == CLOSE:
                    return

    return script


async def flooding(exchange: Exchange) -> None:
    """An endless sequence of frames of many sizes."""
    await exchange.send(switching(exchange.request))
    frames = [encode(Frame(BINARY, bytes((size % 251,)) * size)) for size in (1, 125, 126, 4000, 65535, 65536, 200_000)]
    while True:
        await exchange.send(b"".join(frames))
        await asyncio.sleep(0.01)  # frames are in progress at any moment, and the test keeps up


def bearing(token: str, *others: str) -> str:
    """The field line with which a browser presents a token."""
    return "Sec-WebSocket-Protocol: " + ", ".join(["bearer", token, *others])


def frames_of(message: bytes, sizes: Iterable[int], *, opcode: int = BINARY) -> list[Frame]:
    """A message in frames of these sizes; the last frame contains the rest."""
    frames: list[Frame] = []
    for size in sizes:
        frames.append(Frame(opcode if not frames else CONT, message[:size], fin=False))
        message = message[size:]
    frames.append(Frame(opcode if not frames else CONT, message))
    return frames
