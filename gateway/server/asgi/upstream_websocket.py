"""The upstream's side of a WebSocket over ASGI: an upgraded connection, read and written in messages."""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Final, NamedTuple

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side

from gateway.errors import without_traceback
from gateway.proxy.slow_peers import STALL
from gateway.proxy.websocket_tunnel import CLOSE_TIMEOUT, keep_alive
from gateway.wire.websocket import ABNORMAL, BAD_GATEWAY, GOING_AWAY, INVALID_TEXT, NO_STATUS

_HELD: Final = 262144  # bytes of messages that wait for the client before reading from the upstream pauses

log: Final = logging.getLogger("gateway.websocket")


class Ended(NamedTuple):
    """The code and reason of a peer's Close. NO_STATUS stands for a Close without a code, ABNORMAL for a missing
    Close."""

    code: int
    reason: str = ""


class UpstreamSocket(asyncio.Protocol):
    """The connection to the upstream. `ended` is None while it is open. Earlier messages can still be taken after it
    has ended. `connected` contains it until its transport is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        early: bytes,
        connected: "set[UpstreamSocket]",
    ) -> None:
        self._loop = loop
        self._connected = connected
        connected.add(self)
        self._transport = transport
        self._frames = Protocol(Side.CLIENT, max_size=None, logger=log)
        self._inbox: deque[str | bytes] = deque()
        self._held = 0
        self._paused = False
        self._fragments: list[bytes] = []
        self._is_text = False
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._parting: list[asyncio.TimerHandle] = []
        self._lost = asyncio.Event()
        self.ended: Ended | None = None
        keep_alive(transport)
        transport.set_protocol(self)
        transport.resume_reading()
        if early:
            self.data_received(early)

    # ---- for the relay

    def take(self) -> str | bytes | None:
        """Return the next complete message or None: text as str, binary as bytes."""
        if not self._inbox:
            return None
        data = self._inbox.popleft()
        self._held -= len(data)
        if self._paused and self._held <= _HELD // 2:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    async def news(self) -> None:
        """Wait for a message, for the end of the upstream's side, or for the end of this side."""
        self._news.clear()
        await self._news.wait()

    async def send(self, data: bytes, *, is_text: bool) -> None:
        """Send a message once the upstream has taken enough of the earlier ones. Drop it after the upstream's Close."""
        await self._until_writable()
        try:
            self._frames.send_text(data) if is_text else self._frames.send_binary(data)
        except InvalidState:
            return
        self._write()

    def leave(self, ended: Ended) -> None:
        """Send a Close unless one was sent, and close the connection as soon as the upstream has answered."""
        if not self._frames.close_expected() and not self._transport.is_closing():
            code = ended.code if _may_be_sent(ended.code) else None
            self._frames.send_close(code, "" if code is None else _short(ended.reason))
            self._write()
            self._part()
        self._news.set()

    async def shut_down(self) -> None:
        """Leave, and return when the transport is closed: at the latest after CLOSE_TIMEOUT, even with unsent data."""
        self.leave(Ended(GOING_AWAY))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._lost.wait()
        if not self._lost.is_set():
            self._transport.abort()
            await self._lost.wait()

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        frames.receive_data(data)
        for event in frames.events_received():
            assert isinstance(event, Frame)  # the handshake is complete
            self._take_in(event)
        self._write()
        if self.ended is None and frames.parser_exc is not None:
            log.info("an upstream broke the WebSocket protocol: %s", without_traceback(frames.parser_exc))
            self._has_left(Ended(BAD_GATEWAY))
        if self._held > _HELD and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connected.discard(self)
        self._lost.set()
        self._writable.set()
        self._has_left(Ended(ABNORMAL))
        for timer in self._parting:
            timer.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- inside

    def _take_in(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            close = self._frames.close_rcvd
            assert close is not None
            self._has_left(Ended(close.code, close.reason))
            return
        if frame.opcode in (Opcode.PING, Opcode.PONG) or self.ended is not None:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            fragments, self._fragments = self._fragments, []
            self._deliver(fragments[0] if len(fragments) == 1 else b"".join(fragments))

    def _deliver(self, data: bytes) -> None:
        try:
            message = data.decode() if self._is_text else data
        except UnicodeDecodeError:
            self._frames.fail(INVALID_TEXT)
            self._has_left(Ended(BAD_GATEWAY))
            return
        self._held += len(message)
        self._inbox.append(message)
        self._news.set()

    def _has_left(self, ended: Ended) -> None:
        """Note the upstream's Close. The upstream closes the connection (RFC 6455 7.1.1), or a timer does."""
        if self.ended is None:
            self.ended = ended
            self._news.set()
            self._part()

    def _part(self) -> None:
        """Start the timers after the first Close: CLOSE_TIMEOUT for the Close of the peer, STALL for unsent data."""
        if not self._parting and not self._transport.is_closing():
            self._parting = [
                self._loop.call_later(CLOSE_TIMEOUT, self._transport.close),
                self._loop.call_later(STALL, self._transport.abort),
            ]

    def _write(self) -> None:
        for data in self._frames.data_to_send():
            if data and not self._transport.is_closing():
                self._transport.write(data)

    async def _until_writable(self) -> None:
        """Wait for the upstream to take the unsent data. Abort the connection if it takes nothing for STALL seconds."""
        while not self._writable.is_set():
            waiting = self._transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(STALL):  # wait_for loses a cancellation that comes with its result
                    await self._writable.wait()
            except TimeoutError:
                if self._transport.get_write_buffer_size() == waiting:
                    self._transport.abort()
                    return


def _may_be_sent(code: int) -> bool:
    """Return whether a Close can carry this code. The other codes only inform the local program (RFC 6455 7.4)."""
    return code in _SENDABLE or 3000 <= code < 5000


def _short(reason: str) -> str:
    return reason.encode()[:123].decode(errors="ignore")


_SENDABLE: Final = frozenset(code for code in CloseCode if code not in (NO_STATUS, ABNORMAL, CloseCode.TLS_HANDSHAKE))
