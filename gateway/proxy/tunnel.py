"""A WebSocket connection through the gateway, once both sides have agreed: bytes go through as they are.

Either side that cannot keep up has the other's socket not read. Either side that ends ends both: a connection that dies
without a Close is not given one, since nobody said goodbye. The gateway itself says goodbye with a Close of its own,
between two frames, when the caller may not stay or when it stops.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, cast

from gateway.wire.websocket import FrameCounter, close_frame

_FAREWELL: Final = 0.75  # seconds for the other side to answer our Close before the connection is cut
_HIGH_WATER: Final = 262144


class Tunnel:
    """The two ends of one relayed connection. `ended` is called once, when both are gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Callable[["Tunnel"], None]) -> None:
        self._loop = loop
        self._ended: Callable[[Tunnel], None] | None = ended
        self._farewell: bytes | None = None
        self.caller = TunnelEnd(self, masked_towards=False)
        self.upstream = TunnelEnd(self, masked_towards=True)
        self.caller.other, self.upstream.other = self.upstream, self.caller

    def join(self, caller: asyncio.Transport, upstream: asyncio.Transport, early: tuple[bytes, bytes]) -> None:
        """Let both transports speak to each other from now on. `early` is what each side has sent already, the
        caller's first."""
        for end, transport in ((self.caller, caller), (self.upstream, upstream)):
            end.transport = transport
            transport.set_protocol(end)
            transport.set_write_buffer_limits(high=_HIGH_WATER)
        for end, data in ((self.caller, early[0]), (self.upstream, early[1])):
            end.transport.resume_reading()
            if data:
                end.data_received(data)

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes that came from the caller, and from the upstream."""
        return self.caller.received, self.upstream.received

    def close(self, code: int, reason: str) -> None:
        """Say goodbye to both sides, and cut what is left soon after."""
        if self._farewell is None:
            self._farewell = b"said"
            self.caller.say_goodbye(close_frame(code, reason, masked=False))
            self.upstream.say_goodbye(close_frame(code, reason, masked=True))
            self._loop.call_later(_FAREWELL, self.cut)

    def cut(self) -> None:
        """Close both sides now."""
        for end in (self.caller, self.upstream):
            if end.transport is not None:
                end.transport.abort()

    def lost(self, end: "TunnelEnd", *, clean: bool) -> None:
        """One side is gone: what it has sent still goes to the other, then that ends as well."""
        other = end.other
        if other.transport is not None and not other.is_lost:
            if clean:
                other.transport.close()
            else:
                other.transport.abort()
        if other.is_lost and self._ended is not None:
            ended, self._ended = self._ended, None
            ended(self)


class TunnelEnd(asyncio.Protocol):
    """One side of a tunnel. `received` counts its bytes."""

    other: "TunnelEnd"

    def __init__(self, tunnel: Tunnel, *, masked_towards: bool) -> None:
        self._tunnel = tunnel
        self._frames = FrameCounter()  # of what this side sends
        self._goodbye: bytes | None = None  # a Close for this side, once the frame on its way to it has ended
        self._deaf = False  # a Close has been sent to this side: nothing follows it
        self.masked_towards = masked_towards
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.received = 0
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        other = self.other
        if other._goodbye is not None:
            self._finish_frame(data)
        elif not other._deaf:
            self._frames.feed(data)
            other.transport.write(data)

    def say_goodbye(self, frame: bytes) -> None:
        """Send a Close to this side as soon as no frame is under way to it."""
        if self.is_lost or self.transport is None:
            return
        if self.other._frames.between:
            self._deaf = True
            self.transport.write(frame)
        else:
            self._goodbye = frame

    def _finish_frame(self, data: bytes) -> None:
        """The rest of the frame that was under way to the other side, and then the Close that waits for its end."""
        other = self.other
        end = self._frames.first_end(data)
        if end is None:
            self._frames.feed(data)
            other.transport.write(data)
            return
        goodbye, other._goodbye, other._deaf = other._goodbye, None, True
        other.transport.write(data[:end] + (goodbye or b""))

    def pause_writing(self) -> None:
        with contextlib.suppress(RuntimeError):  # the other side is closing
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.is_lost and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._tunnel.lost(self, clean=exc is None)
