"""One connection of a caller under `gateway serve`: how it begins, keeps pace, is answered, and ends.

What is read from it, and what becomes of that, is `protocol.py`, which builds on this. Here is the other half: after an
answer either the next request follows, or what is left of a body is read over, or the connection says goodbye in a way
that does not destroy the answer on its way.
"""

import asyncio
from abc import ABC, abstractmethod
from time import monotonic
from typing import Any, Final, cast

from gateway.errors import Refusal
from gateway.gate.admission import Peer
from gateway.proxy.interfaces import Exchange
from gateway.proxy.websocket_tunnel import Tunnel
from gateway.server.protocol.phases import BODY, DISCARD, HEAD, LINGER, TUNNEL, RESPONDING
from gateway.server.protocol.request_parser import HeadReader
from gateway.server.protocol.response_writer import ResponseWriter
from gateway.server.protocol.sockets import has_unread, reset_on_close
from gateway.server.runtime import Runtime
from gateway.server.upload_rate import UploadRate
from gateway.wire.chunked import ChunkedDecoder, ChunkedFault
from gateway.wire.fields import RequestFields
from gateway.wire.websocket import GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER

HELD: Final = 65536  # bytes of later requests that are held while one is being answered
_LINGER: Final = 5.0  # seconds for which an unwanted body is read and thrown away, so that the caller sees the answer
_LINGERED: Final = 1 << 26  # bytes of a chunked body that are thrown away at most meanwhile
_NO_FIELDS: Final = RequestFields()
STALL: Final = 60.0  # seconds in which a caller must take something of what is sent to it
_TOO_MANY: Final = 256  # connections beyond the limit that are still told so, and not just closed


class CallerConnection(asyncio.Protocol, ABC):
    """The state of one connection, and everything about it but reading requests."""

    _heads: HeadReader

    def __init__(self, runtime: Runtime, connections: set[Any]) -> None:
        self.runtime = runtime
        self.loop = runtime.loop
        self.observer = runtime.observer
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything is called
        self.draining = False
        self._connections = connections
        self._peer: Peer = None  # type: ignore[assignment]  # as above
        self._fields = RequestFields()
        self._phase = HEAD
        self._buffer = b""
        self._advancing = False
        self._turn_due = False  # whether the loop will go on with the buffer by itself
        self._deadline: float | None = None
        self._answer: ResponseWriter | None = None
        self._exchange: Exchange | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._left = 0  # bytes of the request body that are still to come, where its length is known
        self._chunked = False
        self._decoder: ChunkedDecoder | None = None  # of the body that is being read
        self._upload_rate: UploadRate | None = None  # of a body that takes longer than a tick
        self._wants_continue = False
        self._upload_paused = False
        self._full = False  # more is waiting to be taken by the caller than the transport should hold
        self._unsent: tuple[int, float] | None = None  # what is waiting, and since when it is as much
        self._tunnel: Tunnel | None = None

    @property
    def serves(self) -> bool:
        """Whether a request is being served just now."""
        return self._answer is not None

    @abstractmethod
    def _advance(self) -> None:
        """Take from the buffer what can be taken."""

    @abstractmethod
    def pause_upload(self) -> None:
        """The upstream is slow: the caller's silence from now on is our doing."""

    @abstractmethod
    def resume_upload(self) -> None:
        """The upstream takes the body again."""

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=262144)
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._peer = Peer(address, scheme, self.runtime.proxies)
        self._connections.add(self)
        self._deadline = self.runtime.ticker.after(self.runtime.server.header_timeout)
        beyond = len(self._connections) - self.runtime.server.max_connections
        if beyond > _TOO_MANY:
            transport.abort()
        elif beyond > 0:
            self._refuse_early(Refusal("overloaded", "max_connections is reached", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._heads.close()
        self._buffer = b""
        self._phase = LINGER
        if self._deciding is not None:
            # A cancelled task keeps its CancelledError, whose traceback leads to this object.
            deciding, self._deciding = self._deciding, None
            deciding.cancel()
        if self._answer is not None:
            self._answer.caller_left()
            self._answer = None
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.cancel()

    def eof_received(self) -> bool:
        return False  # a caller that says goodbye has left: what runs for it is cancelled

    def pause_writing(self) -> None:
        self._full = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._full = False
        if self._exchange is not None:
            self._exchange.resume()
        elif self._phase == HEAD and self._buffer:
            self._resume_reading()
            self._advance()

    def shutdown(self) -> None:
        """uvicorn drains: a busy connection is closed after its answer, an idle one in a moment. A request may be on
        its way there, and its caller would have to take it for lost."""
        self.draining = True
        if self._tunnel is not None:
            self._tunnel.close(GOING_AWAY, "the gateway is stopping")
        elif self._phase == HEAD and not self._heads.begun:
            self._deadline = self.runtime.ticker.after(0)

    # ---- WebSocket

    def tunnel(self, answer: ResponseWriter, upstream: asyncio.Transport, early: bytes) -> None:
        """Both sides have switched to WebSocket: from here on their bytes do not pass through this object."""
        self._phase = TUNNEL
        self._exchange = self._deadline = None
        self._heads.close()
        self.forget_head()
        sent, self._buffer = self._buffer, b""
        self._tunnel = Tunnel(self.loop, self._tunnel_ended)
        self._tunnel.join(self.transport, upstream, (sent, early))
        answer.watch()
        if self.draining:  # the handshake was on its way when that began
            self._tunnel.close(GOING_AWAY, "the gateway is stopping")

    def _tunnel_ended(self, tunnel: Tunnel) -> None:
        self._tunnel = None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.tunnel_ended(*tunnel.passed)
        self.connection_lost(None)

    def revoked(self, answer: ResponseWriter, refusal: Refusal) -> None:
        """The caller may not stay."""
        if self._tunnel is not None:
            code = TRY_AGAIN_LATER if refusal.status == 503 else POLICY_VIOLATION
            self._tunnel.close(code, refusal.code)
        elif self._exchange is not None and answer is self._answer:
            exchange, self._exchange = self._exchange, None
            exchange.cancel()
            answer.close_after = True
            answer.end()

    # ---- the end of an answer

    @property
    def date(self) -> bytes:
        """The Date of answers that the gateway makes itself."""
        return self.runtime.ticker.date

    def must_close_after_refusal(self) -> bool:
        """Whether an answer of our own ends the connection, because it does not read the body that is on its way."""
        if self._phase != BODY:
            return False
        if self._chunked:
            return not self._discard_chunks()
        return self._left > HELD or self._wants_continue

    def _discard_chunks(self) -> bool:
        """Drop a chunked body that has arrived whole, so that the request behind it is answered (RFC 9112 9.3.2)."""
        decoder = self._decoder or self._chunked_decoder()
        try:
            self._buffer = decoder.feed(self._buffer, [])
        except ChunkedFault:
            return False
        if decoder.done:
            self._phase, self._decoder = RESPONDING, None
            self._resume_reading()
        return decoder.done

    def _chunked_decoder(self) -> ChunkedDecoder:
        limit = self.runtime.server.max_header_size
        return ChunkedDecoder(limit, limit)

    def reset_on_close(self) -> None:
        reset_on_close(self.transport)

    def log_failure(self, answer: ResponseWriter, reason: str) -> None:
        self.observer.failed(answer.request.request_id, reason)

    def answered(self, answer: ResponseWriter, *, aborted: bool) -> None:
        """An answer is complete, or as complete as it will be."""
        if answer is not self._answer:
            return
        self._answer = None
        exchange, self._exchange = self._exchange, None
        if aborted:
            if exchange is not None:
                exchange.cancel()
            self.transport.abort()
        elif self._phase == BODY:
            self._answered_early(answer, exchange)
        elif answer.close_after or answer.missing > 0 or self.draining:
            self._phase = LINGER
            self.transport.close()
        else:
            self._next()

    def _answered_early(self, answer: ResponseWriter, exchange: Exchange | None) -> None:
        """The body is not wanted any more. A short rest is read over; else say goodbye and read on for a moment, since
        closing on unread bytes resets the connection and may destroy the answer on its way (RFC 9112 9.6)."""
        if exchange is not None:
            exchange.cancel()
        if answer.close_after or self._chunked or self._left > HELD:
            self._linger()
        else:
            self._phase = DISCARD
            self._deadline = self.runtime.ticker.after(_LINGER)
            self._resume_reading()
            self._advance()

    def _discard(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self._buffer = self._buffer[taken:]
        self._left -= taken
        if not self._left:
            self._next()
        return True

    def _linger(self) -> None:
        self._phase = LINGER
        self._buffer = b""
        if self._chunked:
            self._left = _LINGERED
        self._deadline = self.runtime.ticker.after(_LINGER)
        self._resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _throw_away(self) -> None:
        """What comes while saying goodbye. A body that was announced may come whole, anything else not without end."""
        self._left -= len(self._buffer)
        self._buffer = b""
        if self._left < -HELD:
            self.transport.abort()

    def _resume_reading(self) -> None:
        self._upload_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _next(self) -> None:
        """Ready for the next request; what of it has come already is read now."""
        self._phase = HEAD
        self._deadline = self.runtime.ticker.after(self.runtime.server.keep_alive)
        if not self._heads.block:
            self.forget_head()
        if self.draining:
            self.transport.close()
        elif self._buffer:
            self._resume_reading()
            self._advance()

    def forget_head(self) -> None:
        """Drop the head of the last request: ten thousand idle connections would keep as many."""
        self._heads.forget()
        self._fields = _NO_FIELDS

    def _refuse_early(self, refusal: Refusal) -> None:
        """Refuse what is no readable request; nothing after it can be read either."""
        heads = self._heads
        request = self.runtime.head(heads.method, heads.target, RequestFields(), self._peer, 1)
        self._answer = ResponseWriter(self, request, monotonic(), True)
        self._phase = BODY
        self._left, self._chunked = 0, False
        self._answer.refuse(refusal)

    # ---- time

    def tick(self, now: float) -> None:
        """Four times a second: who is late?"""
        if self._tunnel is not None:
            self._tunnel.tick(now)
            return
        self._check_taking(now)
        if self._phase == BODY and self._exchange is not None and self._uploads_too_slowly(now):
            self._refuse_upload("the body came too slowly")
            return
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if self._phase == HEAD and self._heads.begun:
            self._refuse_early(Refusal("request_timeout", "the head was not complete in time"))
        elif self._phase == BODY and self._answer is not None and not self._answer.done:
            self._refuse_upload("the body paused too long")
        elif self._phase == HEAD and has_unread(self.transport):
            self._deadline = self.runtime.ticker.after(0)
        else:
            self.transport.close()

    def _uploads_too_slowly(self, now: float) -> bool:
        server, answer = self.runtime.server, self._answer
        if not server.min_body_rate or answer is None:
            return False
        if self._upload_rate is None:
            self._upload_rate = UploadRate(server.min_body_rate, server.body_timeout, now)
        return self._upload_rate.too_slow(now, answer.received, held_back=self._upload_paused)

    def _refuse_upload(self, reason: str) -> None:
        assert self._answer is not None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        self._answer.close_after = True
        self._answer.refuse(Refusal("request_timeout", reason, detail="The request body came too slowly"))

    def _check_taking(self, now: float) -> None:
        """Give up on a caller that takes nothing of what is sent to it, be it little or much, and also when all that is
        left is to close: the transport would wait for it without end."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting:
            self._unsent = None
        elif self._unsent is None or self._unsent[0] != waiting:
            self._unsent = waiting, now
        elif now - self._unsent[1] > STALL:
            self.transport.abort()
