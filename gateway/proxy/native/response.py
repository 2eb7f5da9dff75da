"""What comes back over one HTTP/1.1 connection to a target, from the socket to the caller.

llhttp parses what the upstream sends, but it is not believed in everything: it cannot be told that a response answers
HEAD, does not signal the end of a body that only the close ends, takes `gzip, chunked` and HTTP/2.0, and goes on to a
second response nobody asked for. So framing is decided here (RFC 9112 6.3), once, when a head is complete, and a
connection on which anything stands that should not is closed instead of reused: the next caller would get it.

    IDLE ── begin ──▶ HEAD ── head complete ──▶ BODY (parsed) · RAW (length known, by-passes the parser) · CLOSE
      ▲                                             │
      └───────────── complete, nothing odd ◀────────┘

What is sent, and what ends the connection, is `connection.py`, which builds on this.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import httptools

from gateway.proxy.exchange import HeadFields
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.response_head import SPELLINGS, ResponseFault, ResponseHead
from gateway.wire.fields import REMEMBERED_FIELDS, REMEMBERED_SIZE
from gateway.wire.websocket import field_value

if TYPE_CHECKING:
    from gateway.proxy.native.pool import TargetPool

# Bodies above this are handed on as they come from the socket: llhttp would copy every chunk (3.4 times the cost).
BYPASS_ABOVE: Final = 65536
# Responses with these statuses have no body, even if they announce a length.
_WITHOUT_BODY: Final = frozenset((204, 304))


# Where a connection stands.
# Plain module constants: looking up a member of an Enum costs as much as parsing a header field.
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
RAW: Final = 3
CLOSE: Final = 4
COMPLETE: Final = 5
SWITCHING: Final = 6


class ResponseReader(asyncio.Protocol, ABC):
    """The state of one connection, and everything about the responses on it."""

    def __init__(self, pool: "TargetPool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: NativeExchange | None = None
        self._phase = IDLE
        self._parser: httptools.HttpResponseParser | None = None
        self._head = ResponseHead()
        self._seen = 0  # bytes of the current response head from earlier reads
        self._read = 0  # bytes of the current read
        self._max_head = pool.limits.max_head_size
        self._left = 0  # bytes of the body that are still to come, where its length is known
        self._served = 0
        self._reusable = True
        self._deadline: float | None = None
        self._streaming = False
        self._upload_paused = False
        self._pieces: list[bytes] = []  # of the body, from one read
        self._same: bytes | None = None  # the last head, if it may be taken for granted when it comes again
        self._same_size = 0  # with its body
        self._status = 0
        self._interims = False

    @property
    def _idle_timeout(self) -> float:
        return self._pool.limits.idle_timeout

    @abstractmethod
    def close(self) -> None:
        """Close at once."""

    @abstractmethod
    def _finish(self, exchange: NativeExchange) -> None:
        """The response is complete."""

    @abstractmethod
    def _switch(self, exchange: NativeExchange, early: bytes) -> None:
        """The protocol is another from here on; `early` is what has come of it."""

    @abstractmethod
    def _invalid(self, exchange: NativeExchange, reason: str) -> None:
        """What came is no response that may be passed on."""

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # bytes that nobody asked for: whatever they are, they are no answer to the next request
            return
        downstream = exchange.downstream
        if self._phase == RAW:
            self._pass_on(exchange, data)
        elif self._same is not None and self._is_repeated(exchange, data):
            self._take_repeated(exchange, data)
        else:
            self._read = len(data)
            self._parse(exchange, data)
            if self._pieces:
                self._hand_over(exchange)
        if self._phase == COMPLETE:
            self._finish(exchange)
        elif self._phase != SWITCHING:
            if self._phase >= BODY and not exchange.paused:
                self._deadline = None if self._streaming else self._pool.ticker.after(self._idle_timeout)
            downstream.flush()

    # ---- the response, as llhttp calls back

    def on_message_begin(self) -> None:
        if self._phase == COMPLETE:
            self._reusable = False  # a second response to one request
        self._head = ResponseHead()
        self._same = None

    def on_status(self, reason: bytes) -> None:
        self._head.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == HEAD:
            if SPELLINGS.get(name) == 0:
                self._head.fields.append((name, value))
            else:
                self._head.add(name, value)
        elif self._phase == BODY:
            self._head.add_trailer(name, value)

    def on_headers_complete(self) -> None:
        exchange, parser, head = self._exchange, self._parser, self._head
        if self._phase != HEAD or exchange is None or parser is None:
            return
        status = parser.get_status_code()
        head.check(status, parser.get_http_version())
        if self._seen + self._read > self._max_head:
            head.check_size(self._max_head)
        self._status = status
        if status < 200:
            self._interims = True
            self._interim(exchange, status)
            return
        self._reusable = self._reusable and parser.should_keep_alive()
        self._phase = self._framed_as(exchange, status)
        self._streaming = head.event_stream
        self._pool.answered(status)
        if head.keep_alive is not None:
            self._pool.idle_limit.announced(head.keep_alive)
        exchange.downstream.head(status, head.reason, head.fields, head.length)
        if head.event_stream:
            head.fields = HeadFields()
            exchange.request.forget_head()
            exchange.becomes_stream()

    def _interim(self, exchange: NativeExchange, status: int) -> None:
        """103 goes on, 101 only where it was asked for (RFC 9110 7.8), the others end here."""
        if status == 103:
            exchange.downstream.interim(status, self._head.hints)
        elif status == 101:
            accept = exchange.request.accept
            if accept is None or field_value(self._head.fields, b"sec-websocket-accept") != accept:
                raise ResponseFault("a switch of protocols that was not asked for")
            self._phase = SWITCHING

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._phase == COMPLETE:
            self._reusable = False  # a body where none may be
            return
        self._left -= len(data)
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._phase in (BODY, CLOSE):
            self._phase = COMPLETE

    # ---- framing

    def _framed_as(self, exchange: NativeExchange, status: int) -> int:
        """RFC 9112 6.3, in its order: what delimits the body of this response."""
        head = self._head
        if exchange.request.method == b"HEAD" or status in (204, 304):
            if status not in (204, 304):
                self._reusable = False  # llhttp waits for a body that HEAD's answer does not have
            return COMPLETE
        if head.chunked:
            # A Content-Length among the trailers frames nothing any more: it is dropped, not a reason to break off.
            if self._parser is not None:
                self._parser.set_dangerous_leniencies(lenient_chunked_length=True)
            return BODY
        if head.length is None:
            self._reusable = False
            return CLOSE
        self._left = head.length
        return BODY

    def _parse(self, exchange: NativeExchange, data: bytes) -> None:
        assert self._parser is not None
        heading = self._phase == HEAD
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._phase == SWITCHING:
                self._switch(exchange, data[upgrade.args[0] :])
                return
            self._invalid(exchange, "an upgrade that was not asked for")
        except httptools.HttpParserError as error:
            if self._phase == COMPLETE:
                self._reusable = False  # the answer was whole; what follows it is not ours to understand
            else:
                self._invalid(exchange, str(error.__context__ if error.__context__ else error))
        if heading and self._exchange is exchange:
            if self._phase == COMPLETE:
                self._remember(data)
            else:
                self._after_head(exchange, len(data))

    def _is_repeated(self, exchange: NativeExchange, data: bytes) -> bool:
        """Whether this is the same head as the last, to the byte, with exactly the body that it announces."""
        same = self._same
        return (
            same is not None
            and len(data) == self._same_size
            and data.startswith(same)
            and self._phase == HEAD
            and not self._seen
            and exchange.request.method != b"HEAD"
        )

    def _take_repeated(self, exchange: NativeExchange, data: bytes) -> None:
        """An API answers many requests of a second by the same head: it means the same, and is not parsed again."""
        assert self._same is not None
        head = self._head
        self._phase = COMPLETE
        self._pool.health.succeeded()
        exchange.downstream.head(self._status, head.reason, head.fields, head.length)
        if head.length:
            exchange.downstream.body(data[len(self._same) :])

    def _remember(self, data: bytes) -> None:
        """Keep a head that came in one read with the whole of its body, and with nothing else."""
        head, status = self._head, self._status
        if head.length is None or head.event_stream or self._interims or self._seen or not self._reusable:
            return
        if status in _WITHOUT_BODY or status in self._pool.limits.failure_statuses:
            return
        size = len(data) - head.length
        if size <= REMEMBERED_SIZE and len(head.fields) <= REMEMBERED_FIELDS:
            self._same, self._same_size = data[:size], len(data)

    def _after_head(self, exchange: NativeExchange, size: int) -> None:
        if self._phase == HEAD:
            self._seen += size
            if self._seen > self._max_head:
                self._invalid(exchange, f"a head of more than {self._max_head} bytes")
        elif self._phase == BODY and not self._head.chunked and self._left > BYPASS_ABOVE:
            self._phase = RAW
            self._parser = None
        elif self._phase == SWITCHING:
            self._invalid(exchange, "a 101 without Upgrade")  # RFC 6455 4.1: then it is no answer to a handshake

    def _hand_over(self, exchange: NativeExchange) -> None:
        """The pieces of one read as one: a thousand chunks of a byte would be a thousand writes."""
        pieces, self._pieces = self._pieces, []
        if self._exchange is exchange:
            exchange.downstream.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _pass_on(self, exchange: NativeExchange, data: bytes) -> None:
        """A body of known length, as it comes from the socket."""
        self._left -= len(data)
        if self._left < 0:
            self._reusable = False
            data = data[: self._left]
        exchange.downstream.body(data)
        if self._left <= 0:
            self._phase = COMPLETE
