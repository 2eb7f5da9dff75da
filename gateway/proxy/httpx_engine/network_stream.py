"""The socket for httpx: an asyncio protocol that httpcore reads from and writes to.

httpcore checks a connection only when it needs it. This protocol reads all the time: it checks the head of a response
when it arrives, passes on a 103 at once, and notices an upstream that closes during an upload.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol, cast

import httpcore

from gateway.proxy import unread
from gateway.proxy.response_head import ResponseFault

_HELD: Final = 65536  # bytes that wait for httpcore before reading from the socket pauses
# Bytes that httpcore gets at once and processes without a pause: 5,000 chunks of one byte take 50 ms.
_PORTION: Final = 32768


class Listener(Protocol):
    """The events of a connection, for its attempt."""

    def heard(self, data: bytes) -> tuple[bytes, ...]:
        """Return the received bytes for httpcore, the head first and separately. Raises ResponseFault."""

    def content(self, data: bytes) -> bytes:
        """Return the equivalent bytes of the body for httpcore. Raises ResponseFault."""

    def upstream_left(self) -> None:
        """Note that the upstream has closed: it sends and takes no more."""

    def wants_more(self) -> None:
        """Note that httpcore has processed everything it was given."""

    def stuck(self) -> None:
        """Note that the upstream takes no more of the request body for now."""

    def unstuck(self) -> None:
        """Note that the upstream takes the request body again."""


class Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. `is_open` is true from its opening to its loss."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._came: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._ended = False
        self._failure: Exception | None = None
        self._begun = False  # whether a head has arrived
        self._beheaded = False  # whether httpcore has received it
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_open = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop has another base class
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
        # An unannounced end: a reset, or TLS without close_notify (RFC 9112 9.8).
        self.is_open = False
        self._end(httpcore.ReadError(f"closed: {exc or 'without a goodbye'}"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- for httpcore

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return received bytes; b"" at the end. A head comes in one piece of any size, because h11 would limit it
        otherwise."""
        self._listener.wants_more()
        while True:
            await asyncio.sleep(0)  # lets other tasks run between two portions
            while self._paused or not (self._came or self._ended):
                self._readable.clear()
                await self._readable.wait()
            if not self._came:
                if self._failure is not None:
                    # A new instance: the traceback of a stored error would refer back to this object.
                    raise type(self._failure)(*self._failure.args)
                return b""
            if portion := self._portion():
                return portion

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, and wait until enough has been taken."""
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
        """Return nothing, because httpcore needs no information: neither HTTP/2 nor stale connections occur here."""
        return None

    # ---- for the attempt

    def abort(self) -> None:
        """Close at once, without flushing: a partial request body must not look complete."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop passing data to httpcore, because the client is slower. Reading from the socket stops soon after."""
        self._paused = True
        self._pace()

    def resume(self) -> None:
        """Continue to pass data to httpcore."""
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
        """Pause or resume reading from the socket."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._paused or self._held > _HELD:
            transport.pause_reading()
        else:
            transport.resume_reading()
