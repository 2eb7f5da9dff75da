"""One HTTP/1.1 connection to a target, which serves one exchange at a time.

    IDLE ── begin ──▶ HEAD ── final head ──▶ LENGTH · CHUNKS · CLOSE ── end of the body ──▶ COMPLETE ──▶ IDLE

The framing of a response is decided once, when its head is complete (RFC 9112 6.3). A connection is reused only if the
received bytes end exactly with the response: further bytes would answer the next request, which can be another
client's.
"""

import asyncio
import contextlib
import select
from itertools import chain
from time import monotonic
from typing import ClassVar, Final, cast

from gateway.errors import Refusal
from gateway.proxy import unread
from gateway.proxy.connection_pool import ConnectionPool
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.public_fields import passed_on, public_fields, without_own_cookies
from gateway.proxy.response_head import NotHttp, ResponseFault, ResponseHead, ResponseHeadReader, trailers_to_send
from gateway.proxy.target_queue import TargetQueue
from gateway.wire.chunked import ChunkedDecoder, ChunkedFault
from gateway.wire.websocket import handshake_fault

# The state of a connection. Plain constants, because the look-up of an Enum member costs as much as parsing a header
# field.
IDLE: Final = 0
HEAD: Final = 1
LENGTH: Final = 2
CHUNKS: Final = 3
CLOSE: Final = 4
COMPLETE: Final = 5


class UpstreamConnection(asyncio.Protocol):
    """Implements Connection for its exchange, and PooledConnection for its pool."""

    keeps_alive: ClassVar[bool] = True
    _transport: asyncio.Transport
    _unread: select.poll

    def __init__(self, queue: TargetQueue, pool: ConnectionPool) -> None:
        self._queue = queue
        self._pool = pool
        self._ticker = queue.ticker
        self._idle_timeout = queue.limits.idle_timeout
        self._max_head = queue.limits.max_head_size
        self._phase = IDLE
        self._exchange: UpstreamExchange | None = None
        self.idle_since = 0.0
        self._served = 0
        self._reusable = True
        self._deadline: float | None = None
        # the request
        self._upload_paused = False
        self._upload_over = False  # the upstream does not want the rest of the request body
        # the response
        self._heads = ResponseHeadReader(self._max_head)
        self._cached_head: ResponseHead | None = None  # an API often answers with the same head
        self._left = 0  # bytes of the body still to come, if its length is known
        self._chunks: ChunkedDecoder | None = None
        self._undecoded = b""  # chunks not yet decoded
        self._streaming = False

    @property
    def exchange(self) -> UpstreamExchange | None:
        """The request in progress."""
        return self._exchange

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the target takes no more of the request body for now."""
        return self._upload_paused

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop has another base class
        self._unread = unread.watch(transport)
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=262144)
        self._pool.made(self)

    def eof_received(self) -> bool:
        exchange = self._exchange
        self._reusable = False
        self._pool.ended(self)
        if exchange is not None and self._phase == CLOSE:
            self._finish(exchange)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reusable = False
        if exc is not None:
            self._read_what_arrived()
        exchange, self._exchange = self._exchange, None
        self._pool.lost(self)
        if exchange is not None:
            self._lost_under(exchange, f"closed: {exc or 'end of file'}")

    def _read_what_arrived(self) -> None:
        """Read the response of an upstream that refuses a request body. It answers and closes, and a write fails before
        the response is read (RFC 9112 9.5)."""
        if self._exchange is None:
            return
        for data in chain((b"",), unread.take(self._transport)):
            self._undecoded += data
            while self._undecoded and self._exchange is not None:
                self._decode_further()

    def pause_writing(self) -> None:
        exchange = self._exchange
        if exchange is None or self._upload_over:
            return
        self._upload_paused = True
        self._deadline = self._ticker.after(self._idle_timeout)
        if not exchange.body_ended:
            exchange.downstream.pause_upload()

    def resume_writing(self) -> None:
        exchange = self._exchange
        if not self._upload_paused or exchange is None:
            return
        self._upload_paused = False
        self._deadline = None
        if self._phase > HEAD and not self._streaming:  # a response that began before the upload ended
            self._deadline = self._ticker.after(self._idle_timeout)
        if exchange.body_ended:
            self._await_answer(exchange, self._ticker.after(0))
        else:
            exchange.downstream.resume_upload()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # the bytes belong to no request
            return
        try:
            if self._phase == HEAD:
                self._read_head(exchange, data)
            else:
                self._read_body(exchange, data)
        except ResponseFault as fault:
            self._invalid(exchange, fault)
            return
        if self._exchange is not exchange:
            return
        if self._phase == COMPLETE:
            self._finish(exchange)
            return
        if self._phase != HEAD and not exchange.paused:
            self._deadline = None if self._streaming else self._ticker.after(self._idle_timeout)
        exchange.downstream.flush()

    # ---- the request

    @property
    def is_new(self) -> bool:
        """Whether it has served no request."""
        return self._served == 0

    def is_silent(self) -> bool:
        """Return whether the socket has nothing that the loop has not read yet: the end of the connection, or bytes
        that would answer the next request.

        Ignore the session tickets of a new TLS connection.
        """
        return not self._unread.poll(0) or (self.is_new and self._is_tls)

    def begin(self, exchange: UpstreamExchange, now: float) -> None:
        """Send the head of a request, and the part of its body that has arrived."""
        request = exchange.request
        exchange.connection = self
        self._exchange = exchange
        self._phase = HEAD
        self._streaming = self._upload_paused = self._upload_over = False
        host = self._queue.host_line
        if request.preserved_host is not None:
            host = b"Host: %b\r\n" % request.preserved_host
        self._transport.write(b"%b%b%b\r\n" % (request.start, host, request.fields))
        exchange.downstream.forwarded_at = monotonic()
        if exchange.paused:
            self.pause_response()
        if request.length == 0:
            timeout = request.response_timeout
            self._deadline = None if timeout is None else now + timeout
            return
        self._deadline = None
        if exchange.early is not None:
            exchange.send_early(self)
        if exchange.body_ended:
            self._end_body(exchange, now)

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body, framed as announced in the head."""
        assert self._exchange is not None
        self._exchange.body_sent = True
        if self._upload_over:
            return
        if self._exchange.request.length is None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._transport.write(data)

    def finish_request(self) -> None:
        """Complete the body."""
        assert self._exchange is not None
        if not self._upload_over:
            self._end_body(self._exchange, self._ticker.after(0))

    def _end_body(self, exchange: UpstreamExchange, now: float) -> None:
        """Send the end of the body. The response time-out begins now, or when the last of the body is sent."""
        if exchange.request.length is None:
            self._transport.write(b"0\r\n\r\n")
        if not self._upload_paused:
            self._await_answer(exchange, now)

    def _await_answer(self, exchange: UpstreamExchange, now: float) -> None:
        if self._phase == HEAD:
            timeout = exchange.request.response_timeout
            self._deadline = None if timeout is None else now + timeout

    def _answered_early(self, exchange: UpstreamExchange, head: ResponseHead) -> None:
        """Stop sending a body that the upstream has refused (RFC 9112 9.5). The upstream can close the connection
        without an announcement, because the body would precede the next request."""
        self._reusable = False
        if head.status < 400 and head.keeps_alive:
            return
        self._upload_over = True
        if self._upload_paused:
            self._upload_paused = False
            exchange.downstream.resume_upload()

    # ---- the head of the response

    def _read_head(self, exchange: UpstreamExchange, data: bytes) -> None:
        head, heads = self._cached_head, self._heads
        if head is not None and data.startswith(head.block) and not heads.begun:
            self._answer(exchange, head, data[len(head.block) :])
            return
        while (head := heads.read(data)) is not None:
            data = heads.rest
            if head.status >= 200:
                heads.restart()
                self._cached_head = head if head.is_repeatable else None
                self._answer(exchange, head, data)
                return
            if head.status == 101:
                self._switch(exchange, head, data)
                return
            if head.status != 100:  # RFC 9110 15.2: the gateway answers the client's Expect itself
                exchange.downstream.interim(head.status, without_own_cookies(head.fields, exchange.request))
            if not data:
                return

    def _answer(self, exchange: UpstreamExchange, head: ResponseHead, behind: bytes) -> None:
        """Pass on the final head and the bytes after it."""
        self._queue.answered(head.status)
        length = head.plain_length
        if length and exchange.request.method != b"HEAD":
            self._phase, self._left = LENGTH, length
            exchange.downstream.head(head.status, head.reason, head.fields, length, head.serialized)
        else:
            self._answer_framed(exchange, head)
        if not exchange.body_ended:
            self._answered_early(exchange, head)
        if behind and self._exchange is exchange:
            self._read_body(exchange, behind)

    def _answer_framed(self, exchange: UpstreamExchange, head: ResponseHead) -> None:
        """Pass on a final head that is not plain."""
        self._phase = self._framed_as(exchange, head)
        self._reusable = self._reusable and head.keeps_alive
        self._streaming = head.event_stream
        if head.keep_alive is not None:
            self._pool.idle_limit.announced(head.keep_alive)
        fields, serialized = passed_on(head, self._ticker.date, exchange.request, self._queue.target)
        exchange.downstream.head(head.status, head.reason, fields, head.length, serialized)
        if self._streaming:
            exchange.request.forget_head()
            exchange.becomes_stream()

    def _framed_as(self, exchange: UpstreamExchange, head: ResponseHead) -> int:
        """Return the framing in the order of RFC 9112 6.3."""
        if exchange.request.method == b"HEAD" or not head.has_content:
            # Some servers send the content nevertheless, possibly late.
            self._reusable = self._reusable and not head.announces_content
            return COMPLETE
        if head.chunked:
            self._chunks = ChunkedDecoder(self._max_head, self._max_head)
            return CHUNKS
        if head.length is None:
            self._reusable = False
            return CLOSE
        self._left = head.length
        return LENGTH if head.length else COMPLETE

    # ---- the body of the response

    def _read_body(self, exchange: UpstreamExchange, data: bytes) -> None:
        if self._phase == LENGTH:
            self._left = left = self._left - len(data)
            if left <= 0:
                self._phase = COMPLETE
                if left:
                    self._reusable = False
                    data = data[:left]
            exchange.downstream.body(data)
        elif self._phase == CHUNKS:
            self._read_chunks(exchange, data)
        elif self._phase == CLOSE:
            exchange.downstream.body(data)
        else:
            self._reusable = False

    def _read_chunks(self, exchange: UpstreamExchange, data: bytes) -> None:
        if self._undecoded:
            self._undecoded += data
            return
        assert self._chunks is not None
        pieces: list[bytes] = []
        try:
            behind = self._chunks.feed(data, pieces)
        except ChunkedFault as fault:
            raise ResponseFault(str(fault)) from fault
        finally:
            if pieces:
                exchange.downstream.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._chunks.done:
            self._phase = COMPLETE
            self._reusable = self._reusable and not behind
        elif behind:
            self._undecoded = behind
            self._take_turn_soon()

    # ---- the end

    def _finish(self, exchange: UpstreamExchange) -> None:
        """Complete the response. The connection becomes free before the client gets the end, because the next request
        can follow at once."""
        chunks = self._chunks
        self._exchange = self._chunks = None
        self._deadline = None
        self._served += 1
        self._phase = IDLE
        exchange.connection = None
        if exchange.paused:
            self.resume_response()
        if self._reusable and exchange.body_ended:
            self._pool.give_back(self)
        else:
            self.close()
        exchange.downstream.end(() if chunks is None else trailers_to_send(chunks.trailers))

    def _switch(self, exchange: UpstreamExchange, head: ResponseHead, early: bytes) -> None:
        """Give the connection to the client's protocol. It no longer counts in the pool."""
        handshake = exchange.request.handshake
        if handshake is None:
            raise ResponseFault("a switch of protocols without a request for one")
        fault = handshake_fault(handshake, head.fields, options=head.options, upgrade=head.upgrade)
        if fault is not None:
            raise ResponseFault(fault)
        self._exchange = exchange.connection = None
        self._deadline = None
        self._queue.health.succeeded()
        self._pool.lost(self)
        fields = public_fields(head.fields, exchange.request, self._queue.target)
        exchange.downstream.upgraded(fields, self._transport, early)

    def _invalid(self, exchange: UpstreamExchange, fault: ResponseFault) -> None:
        # A target that does not speak HTTP is unusable. A malformed head can be the fault of one resource.
        refusal = Refusal("upstream_invalid", f"{self._queue.target}: {fault}")
        self._fail(exchange, refusal, counts=isinstance(fault, NotHttp))

    def _lost_under(self, exchange: UpstreamExchange, reason: str) -> None:
        """Fail the exchange of a lost connection. Without a byte of a response it can have been stale, so that the
        request never arrived."""
        silent = self._phase == HEAD and not self._heads.begun
        self._fail(exchange, Refusal("upstream_unreachable", f"{self._queue.target}: {reason}"), may_repeat=silent)

    def _fail(
        self, exchange: UpstreamExchange, refusal: Refusal, *, may_repeat: bool = False, counts: bool = True
    ) -> None:
        begun = HEAD < self._phase <= COMPLETE
        stale = may_repeat and self._served > 0
        self._exchange = None
        exchange.connection = None
        self.close()
        if begun:
            exchange.downstream.abort(refusal.reason)
        elif stale:  # a closed idle connection says nothing about the target's health
            self._pool.closed_early(self)
            exchange.upstream.failed(exchange, refusal, may_repeat=True)
        else:
            self._queue.failed(exchange, refusal, may_repeat=may_repeat, counts=counts)

    def drop(self) -> None:
        """Drop the exchange, because the client has left."""
        if self._exchange is not None:
            self._exchange.connection = None
            self._exchange = None
        self.close()

    def close(self) -> None:
        """Close at once, without flushing: a partial request body must not look complete."""
        self._reusable = False
        self._pool.retire(self)
        self._transport.abort()

    def close_when_done(self) -> None:
        """Close now if idle, or after the running exchange."""
        self._reusable = False
        if self._exchange is None:
            self.close()

    # ---- flow control

    def pause_response(self) -> None:
        """Stop reading, because the client is slower. The upstream's time limit pauses too."""
        self._pause_reading()
        if self._phase > HEAD:
            self._deadline = None

    def resume_response(self) -> None:
        """Continue to read."""
        if self._undecoded:
            self._take_turn_soon()
        else:
            self._resume_reading()
        if self._phase > HEAD and not self._streaming:
            self._deadline = self._ticker.after(self._idle_timeout)

    def _take_turn_soon(self) -> None:
        """Decode the next chunks after a turn of the other connections. Reading pauses until then."""
        self._pause_reading()
        asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._undecoded and not exchange.paused:
            self._decode_further()
            if not self._undecoded and not exchange.paused:
                self._resume_reading()

    def _decode_further(self) -> None:
        data, self._undecoded = self._undecoded, b""
        self.data_received(data)

    def _pause_reading(self) -> None:
        with contextlib.suppress(RuntimeError):  # the transport is closing
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def tick(self, now: float) -> None:
        """Fail the exchange of an upstream that misses its deadline."""
        exchange = self._exchange
        if exchange is None or self._deadline is None or now < self._deadline:
            return
        # A body that the target does not read has the upstream's own time limit.
        counts = self._upload_paused or self._queue.counts_timeout(exchange)
        self._fail(exchange, Refusal("upstream_timeout", f"{self._queue.target}: no answer in time"), counts=counts)
