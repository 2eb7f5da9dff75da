"""One HTTP/1.1 connection to a target: how it begins, is asked, keeps pace, and ends.

What comes back over it is read by `response.py`, on which this builds, and which draws the states of a connection.
"""

import asyncio
import contextlib
import select
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

import httptools

from gateway.errors import Refusal
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.native.response import BODY, CLOSE, HEAD, IDLE, SWITCHING, ResponseReader
from gateway.proxy.response_head import ResponseHead

if TYPE_CHECKING:
    from gateway.proxy.native.pool import TargetPool

_NO_HEAD: Final = ResponseHead()  # in the place of the last one, while a connection idles


class UpstreamConnection(ResponseReader):
    """Serves one exchange at a time. `idle_since` is the loop's time when it last became free."""

    def __init__(self, pool: "TargetPool") -> None:
        super().__init__(pool)
        self.idle_since = 0.0

    @property
    def exchange(self) -> NativeExchange | None:
        """The request that is served now."""
        return self._exchange

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the target takes no more of the request body for now."""
        return self._upload_paused

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=262144)
        self._pool.connections.add(self)
        self._pool.give_back(self)

    def eof_received(self) -> bool:
        exchange = self._exchange
        self._reusable = False
        self._pool.ended(self)
        if exchange is not None and self._phase == CLOSE:
            self._finish(exchange)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        self._parser = None
        self._pool.lost(self)
        if exchange is not None:
            self._lost_under(exchange, f"closed: {exc or 'end of file'}")

    def pause_writing(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        self._upload_paused = True
        self._deadline = self._pool.ticker.after(self._idle_timeout)
        if not exchange.body_ended:
            exchange.downstream.pause_upload()

    def resume_writing(self) -> None:
        exchange = self._exchange
        if not self._upload_paused or exchange is None:
            return
        self._upload_paused = False
        self._deadline = None
        if self._phase >= BODY and not self._streaming:  # an answer that began before the upload ended
            self._deadline = self._pool.ticker.after(self._idle_timeout)
        if exchange.body_ended:
            self._await_answer(exchange, self._pool.ticker.after(0))
        else:
            exchange.downstream.resume_upload()

    # ---- the request

    def begin(self, exchange: NativeExchange, now: float) -> None:
        """Send the head of a request, and what of its body has come already."""
        request = exchange.request
        assert self._transport is not None
        exchange.connection = self
        self._exchange = exchange
        self._phase = HEAD
        self._seen = 0
        self._streaming = self._upload_paused = self._interims = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        host = self._pool.host_line
        if request.preserved_host is not None:
            host = b"Host: %b\r\n" % request.preserved_host
        self._transport.write(b"%b%b%b\r\n" % (request.start, host, request.fields))
        exchange.downstream.forwarded_at = monotonic()
        self._deadline = None
        if exchange.paused:
            self.pause_response()
        if exchange.early is not None:
            self._send_early(exchange)
        if exchange.body_ended:
            self._end_body(exchange, now)

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body, framed as the head announced."""
        assert self._exchange is not None and self._transport is not None
        self._exchange.body_sent = True
        if self._exchange.request.length is None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._transport.write(data)

    def finish_request(self) -> None:
        """The body is complete."""
        assert self._exchange is not None
        self._end_body(self._exchange, self._pool.ticker.after(0))

    def _end_body(self, exchange: NativeExchange, now: float) -> None:
        """The time-out of the response runs from here, or from when the last of the body has left."""
        if exchange.request.length is None:
            assert self._transport is not None
            self._transport.write(b"0\r\n\r\n")
        if not self._upload_paused:
            self._await_answer(exchange, now)

    def _await_answer(self, exchange: NativeExchange, now: float) -> None:
        if self._phase == HEAD:
            timeout = exchange.request.response_timeout
            self._deadline = None if timeout is None else now + timeout

    def _send_early(self, exchange: NativeExchange) -> None:
        pieces, exchange.early = exchange.early or [], None
        for piece in pieces:
            self.send_body(piece)
        if not exchange.body_ended and not self._upload_paused:
            exchange.downstream.resume_upload()

    def is_silent(self) -> bool:
        """Whether nothing has come on an idle connection that the loop has not read yet: its end, or bytes that no
        request has asked for. Either makes the connection unusable."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if sock is None:  # a transport in memory
            return True
        if sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    # ---- the end

    def _finish(self, exchange: NativeExchange) -> None:
        """The response is complete. The connection is free before the caller is told: its next request may follow."""
        trailers = self._head.trailers
        if self._head.chunked:
            self._parser = None  # it was made lenient
        self._exchange = None
        self._deadline = None
        self._served += 1
        self._phase = IDLE
        if self._same is None:
            self._head = _NO_HEAD
        exchange.connection = None
        exchange.deadline = None
        if exchange.paused:
            self.resume_response()
        if self._reusable and exchange.body_ended:
            self._pool.give_back(self)
        else:
            self.close()
        exchange.downstream.end(trailers)

    def _switch(self, exchange: NativeExchange, early: bytes) -> None:
        """The connection is the caller's from here on; it counts no more as one of the pool's."""
        assert self._transport is not None
        self._exchange = exchange.connection = None
        self._deadline = None
        self._parser = None
        self._pool.health.succeeded()
        self._pool.lost(self)
        exchange.downstream.upgraded(self._head.fields, self._transport, early)

    def _invalid(self, exchange: NativeExchange, reason: str) -> None:
        # A target that does not speak HTTP is unusable. A malformed head can be the fault of one resource.
        speaks_http = self._phase != HEAD or bool(self._head.reason or self._head.fields)
        self._fail(exchange, Refusal("upstream_invalid", f"{self._pool.target}: {reason}"), counts=not speaks_http)

    def _lost_under(self, exchange: NativeExchange, reason: str) -> None:
        """The connection died. One that gave no byte of an answer may have been stale: the request never arrived."""
        silent = self._phase == HEAD and self._seen == 0
        self._fail(exchange, Refusal("upstream_unreachable", f"{self._pool.target}: {reason}"), may_repeat=silent)

    def _fail(
        self, exchange: NativeExchange, refusal: Refusal, *, may_repeat: bool = False, counts: bool = True
    ) -> None:
        begun = HEAD < self._phase < SWITCHING
        stale = may_repeat and self._served > 0
        self._exchange = None
        exchange.connection = None
        self.close()
        if begun:
            exchange.downstream.abort(refusal.reason)
        elif stale:  # an idle connection that was closed says nothing about the target's health
            self._pool.closed_early(self)
            exchange.engine.failed(exchange, refusal, may_repeat=True)
        else:
            self._pool.failed(exchange, refusal, may_repeat=may_repeat, counts=counts)

    def drop(self) -> None:
        """The caller left: what still comes is for nobody."""
        if self._exchange is not None:
            self._exchange.connection = None
            self._exchange = None
        self.close()

    def close(self) -> None:
        """Close at once; a request body half sent must not look complete, so nothing buffered is flushed."""
        self._reusable = False
        self._pool.retire(self)
        if self._transport is not None:
            self._transport.abort()

    def close_when_done(self) -> None:
        """Close now when idle, else after the running exchange."""
        self._reusable = False
        if self._exchange is None:
            self.close()

    # ---- pace

    def pause_response(self) -> None:
        """The caller is slow: stop reading, and do not blame the upstream for the silence."""
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # the transport is closing
                self._transport.pause_reading()
        if self._phase >= BODY:
            self._deadline = None

    def resume_response(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._phase >= BODY and not self._streaming:
            self._deadline = self._pool.ticker.after(self._idle_timeout)

    def tick(self, now: float) -> None:
        """Give up on an upstream that lets its deadline pass."""
        exchange = self._exchange
        if exchange is None or self._deadline is None or now < self._deadline:
            return
        # The body that the target does not read has the upstream's own limit.
        counts = self._upload_paused or self._pool.counts_timeout(exchange)
        self._fail(exchange, Refusal("upstream_timeout", f"{self._pool.target}: no answer in time"), counts=counts)
