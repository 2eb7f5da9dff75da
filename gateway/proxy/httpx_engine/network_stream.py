"""The socket under httpx: an asyncio protocol that httpcore reads from and writes to.

httpcore looks at a connection only when it wants something of it. This one is looked at all the time: the head of a
response is judged as it comes, 103 is passed on at once, and an upstream that closes while the request is still being
sent to it is noticed.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol, cast

import httpcore

from gateway.proxy import unread
from gateway.proxy.response_head import ResponseFault

_HELD: Final = 65536  # bytes that wait for httpcore before the socket is not read from any more
# Bytes that httpcore is given at once, which it works off without a pause: 5,000 chunks of a byte take it 50 ms.
_PORTION: Final = 32768


class Listener(Protocol):
    """What an attempt is told by its connection."""

    def heard(self, data: bytes) -> tuple[bytes, ...]:
        """Bytes have come: what of them is for httpcore, the head first and by itself. Raises ResponseFault."""

    def content(self, data: bytes) -> bytes:
        """The bytes for httpcore that stand for these bytes of the body. Raises ResponseFault."""

    def upstream_left(self) -> None:
        """Nothing more will come, and nothing more is taken."""

    def wants_more(self) -> None:
        """httpcore has worked off all that it was given."""

    def stuck(self) -> None:
        """The upstream does not take the request body any more, for now."""

    def unstuck(self) -> None:
        """It takes it again."""


class Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. `is_open`: from when it is made until it is lost."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._came: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._ended = False
        self._failure: Exception | None = None
        self._begun = False  # whether a head has come
        self._beheaded = False  # whether httpcore has got it
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_open = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=_HELD)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            pieces = self._listener.heard(data)
        except ResponseFault as fault:
            self._end(httpcore.RemoteProtocolError(str(fault)))
            self.abort()
            return
        if pieces:
            self._begun = True
            self._came.extend(pieces)
            self._held += sum(map(len, pieces))
            self._readable.set()
            self._pace()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and exc is not None:
            for data in unread.take(self._transport):
                self.data_received(data)
        # An end of which nothing was said before: a reset, or TLS without its goodbye (RFC 9112 9.8).
        self.is_open = False
        self._end(httpcore.ReadError(f"closed: {exc or 'without a goodbye'}"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- for httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """What has come; b"" at its end. A head comes in one piece, whatever its size: h11 would limit it otherwise."""
        self._listener.wants_more()
        while True:
            await asyncio.sleep(0)  # so that others have their turn between two portions
            while self._paused or not (self._came or self._ended):
                self._readable.clear()
                await self._readable.wait()
            if not self._came:
                if self._failure is not None:
                    # A new one: the traceback of an error that this object keeps would lead back here.
                    raise type(self._failure)(*self._failure.args)
                return b""
            if portion := self._portion():
                return portion

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, and wait until enough of it has been taken."""
        if self._ended or self._transport is None:
            raise httpcore.WriteError("the upstream has closed")
        self._transport.write(buffer)
        if not self._writable.is_set():
            self._listener.stuck()
            await self._writable.wait()
            self._listener.unstuck()

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    def get_extra_info(self, info: str) -> Any:
        """Nothing that httpcore need know: it is told apart from HTTP/2 and from stale connections elsewhere."""
        return None

    # ---- for the attempt

    def abort(self) -> None:
        """Close at once; a request body half sent must not look complete, so nothing buffered is flushed."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """The caller cannot keep up: httpcore gets nothing more, and soon the socket is not read from."""
        self._paused = True
        self._pace()

    def resume(self) -> None:
        """The caller takes the response again."""
        self._paused = False
        self._readable.set()
        self._pace()

    # ---- inside

    def _portion(self) -> bytes:
        data, is_head = self._came.popleft(), not self._beheaded
        if len(data) > _PORTION and not is_head:
            self._came.appendleft(data[_PORTION:])
            data = data[:_PORTION]
        self._beheaded = True
        self._held -= len(data)
        self._pace()
        try:
            return data if is_head else self._listener.content(data)
        except ResponseFault as fault:
            raise httpcore.RemoteProtocolError(str(fault)) from fault

    def _end(self, failure: Exception | None) -> None:
        if not self._ended:
            if failure is None and not self._begun:
                failure = httpcore.ReadError("closed: end of file")
            self._ended, self._failure = True, failure
            self._readable.set()
            self._writable.set()
            self._listener.upstream_left()

    def _pace(self) -> None:
        """Read from the socket while there is somebody to take it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._paused or self._held > _HELD:
            transport.pause_reading()
        else:
            transport.resume_reading()
