"""An established WebSocket connection through the gateway. Bytes pass unchanged.

If one side cannot keep up, the other side's socket is not read. If one side ends, both end. If a connection ends
without a Close, the other side gets none. The gateway sends its own Close between two frames when the caller's access
ends or the gateway stops, and closes each side as soon as it has answered.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

from gateway.proxy.slow_peers import StallWatch
from gateway.wire.websocket import FrameCounter, close_frame

CLOSE_TIMEOUT: Final = 0.4  # seconds in which a partial frame can end and a side can answer the gateway's Close
_FLUSH_TIMEOUT: Final = 2.0  # seconds after that for data not yet sent
_HIGH_WATER: Final = 262144
# A client whose machine disappears sends nothing, and a quiet connection would stay open without end. After a minute of
# silence the kernel probes the connection, and closes it after another minute (seconds, seconds, count).
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class Tunnel:
    """The two sides of one relayed connection. `ended` is called once, when both are lost."""

    __slots__ = ("_ended", "_loop", "caller", "closing", "upstream")

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Callable[["Tunnel"], None]) -> None:
        self._loop = loop
        self._ended: Callable[[Tunnel], None] | None = ended
        self.closing = False
        self.caller = TunnelEnd(self)
        self.upstream = TunnelEnd(self)
        self.caller.other, self.upstream.other = self.upstream, self.caller

    def join(self, caller: asyncio.Transport, upstream: asyncio.Transport, early: tuple[bytes, bytes]) -> None:
        """Connect both transports. `early` contains the bytes that each side has sent already, the client's first."""
        for end, transport in ((self.caller, caller), (self.upstream, upstream)):
            end.transport = transport
            transport.set_protocol(end)
            transport.set_write_buffer_limits(high=_HIGH_WATER)
            keep_alive(transport)
        for end, data in ((self.caller, early[0]), (self.upstream, early[1])):
            end.transport.resume_reading()
            if data:
                end.data_received(data)

    @property
    def passed(self) -> tuple[int, int]:
        """The number of bytes from the client, and from the upstream."""
        return self.caller.received, self.upstream.received

    def close(self, code: int, reason: str) -> None:
        """Send a Close to both sides, and close each of them when it has answered, or soon after."""
        if not self.closing:
            self.closing = True
            self.caller.begin_close(close_frame(code, reason, masked=False))
            self.upstream.begin_close(close_frame(code, reason, masked=True))
            self._loop.call_later(CLOSE_TIMEOUT, self._end_close)

    def tick(self, now: float) -> None:
        """Check four times a second that each side takes its data."""
        self.caller.tick(now)
        self.upstream.tick(now)

    def lost(self, end: "TunnelEnd", *, clean: bool) -> None:
        """Note that one side is lost. Its last data still goes to the other side, which then ends too."""
        other = end.other
        if other.is_lost:
            if self._ended is not None:
                ended, self._ended = self._ended, None
                ended(self)
                for each in (self.caller, self.upstream):
                    each.unlink()
        elif not clean:
            other.transport.abort()
        elif not self.closing:
            other.transport.close()

    def _end_close(self) -> None:
        self.caller.end_close()
        self.upstream.end_close()
        self._loop.call_later(_FLUSH_TIMEOUT, self._cut)

    def _cut(self) -> None:
        for end in (self.caller, self.upstream):
            if not end.is_lost:
                end.transport.abort()


class TunnelEnd(asyncio.Protocol):
    """One side of a tunnel. `received` counts its bytes."""

    __slots__ = ("_close_frame", "_frames", "_stall_watch", "_tunnel", "is_lost", "other", "received", "transport")
    __deletable__ = ("_tunnel", "other")  # mypyc asks for the names that `unlink` deletes.

    other: "TunnelEnd"

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._frames = FrameCounter()  # of the data that this side sends
        self._close_frame: bytes | None = None  # a Close for this side, pending until its current frame ends
        self._stall_watch = StallWatch()
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.received = 0
        self.is_lost = False

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._tunnel.closing:
            self._drain(data)
            return
        self._frames.feed(data)
        if not self.other.is_lost:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._tunnel.lost(self, clean=exc is None)

    def pause_writing(self) -> None:
        with contextlib.suppress(RuntimeError):  # the other side is closing
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.is_lost and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    # ---- closing

    def begin_close(self, frame: bytes) -> None:
        """Send a Close to this side between two frames, unless one was sent."""
        if self.is_lost:
            return
        coming = self.other._frames
        if not coming.between:
            self._close_frame = frame
            return
        if not coming.closing:
            self.transport.write(frame)
        self._close_if_answered()

    def unlink(self) -> None:
        """Drop the references to the other side and the tunnel, because a cycle would keep both. Both sides are
        lost."""
        del self.other, self._tunnel

    def end_close(self) -> None:
        """Close this side at the end of the time for answers. A partial frame can no longer end."""
        if self.is_lost:
            return
        if self._close_frame is not None:
            self.transport.abort()
        else:
            self.transport.close()

    def tick(self, now: float) -> None:
        """Abort a side that takes none of its pending data."""
        if not self.is_lost and self._stall_watch.has_stalled(self.transport.get_write_buffer_size(), now):
            self.transport.abort()

    def _drain(self, data: bytes) -> None:
        """Read from this side after the gateway's Close: pass on the rest of its frame, and drop everything else."""
        other = self.other
        if other._close_frame is not None:
            self._finish_frame(other, other._close_frame, data)
        self._frames.feed(data)
        self._close_if_answered()

    def _finish_frame(self, other: "TunnelEnd", closing_frame: bytes, data: bytes) -> None:
        rest = self._frames.rest(data)
        if other.is_lost:
            return
        if rest is None:
            other.transport.write(data)
            return
        other._close_frame = None
        other.transport.write(data[:rest] if self._frames.closing else data[:rest] + closing_frame)
        other._close_if_answered()

    def _close_if_answered(self) -> None:
        """Close the connection once both Closes were sent (RFC 6455 7.1.1)."""
        if self._frames.closing and self._close_frame is None and not self.is_lost:
            self.transport.close()


def keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel probe a peer that has been silent for long."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):  # not a TCP socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            if hasattr(socket, name):  # not every system has all of them
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
