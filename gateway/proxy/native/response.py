"""Reads the responses that come over one HTTP/1.1 connection to a target.

The framing of a response is decided once, when its head is complete (RFC 9112 6.3). A connection is used again only
where the bytes end exactly with the response: bytes behind it would answer the next request, which can be another
client's.

    IDLE ── begin ──▶ HEAD ── final head ──▶ LENGTH · CHUNKS · CLOSE ── end of the body ──▶ COMPLETE ──▶ IDLE

`connection.py` adds the sending side, and the end of the connection.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.response_head import HeadReader, ResponseFault, ResponseHead
from gateway.wire.chunked import ChunkedDecoder, ChunkedFault
from gateway.wire.fields import REMEMBERED_FIELDS, REMEMBERED_SIZE

if TYPE_CHECKING:
    from gateway.proxy.native.pool import TargetPool

# The state of a connection. Plain constants: looking up a member of an Enum costs as much as parsing a header field.
IDLE: Final = 0
HEAD: Final = 1
LENGTH: Final = 2
CHUNKS: Final = 3
CLOSE: Final = 4
COMPLETE: Final = 5


class ResponseReader(asyncio.Protocol, ABC):
    """The state of one connection, and everything about the responses on it."""

    _transport: asyncio.Transport

    def __init__(self, pool: "TargetPool") -> None:
        self._pool = pool
        self._exchange: NativeExchange | None = None
        self._phase = IDLE
        self._max_head = pool.limits.max_head_size
        self._heads = HeadReader(self._max_head)
        self._remembered: ResponseHead | None = None  # an API often answers with the same head
        self._left = 0  # bytes of the body that are still to come, where its length is known
        self._chunks: ChunkedDecoder | None = None
        self._undecoded = b""  # chunks that wait for their turn
        self._served = 0
        self._reusable = True
        self._deadline: float | None = None
        self._streaming = False

    @property
    def _idle_timeout(self) -> float:
        return self._pool.limits.idle_timeout

    @abstractmethod
    def close(self) -> None:
        """Close at once."""

    @abstractmethod
    def _finish(self, exchange: NativeExchange) -> None:
        """End the exchange: its response is complete."""

    @abstractmethod
    def _switch(self, exchange: NativeExchange, head: ResponseHead, early: bytes) -> None:
        """Hand the connection over to another protocol. `early` holds the bytes behind the head of the 101."""

    @abstractmethod
    def _answered_early(self, exchange: NativeExchange, head: ResponseHead) -> None:
        """The final head came before the end of the request body."""

    @abstractmethod
    def _invalid(self, exchange: NativeExchange, fault: ResponseFault) -> None:
        """End the exchange: its response must not be passed on."""

    @abstractmethod
    def _take_turn_soon(self) -> None:
        """Decode on when other connections have had their turn."""

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # these bytes belong to no request
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
            self._deadline = None if self._streaming else self._pool.ticker.after(self._idle_timeout)
        exchange.downstream.flush()

    # ---- heads

    def _read_head(self, exchange: NativeExchange, data: bytes) -> None:
        head, heads = self._remembered, self._heads
        if head is not None and data.startswith(head.block) and not heads.begun:
            self._answer(exchange, head, data[len(head.block) :])
            return
        while (head := heads.read(data)) is not None:
            data = heads.rest
            if head.status >= 200:
                self._heads = HeadReader(self._max_head)
                self._remember(head)
                self._answer(exchange, head, data)
                return
            if head.status == 101:
                self._switch(exchange, head, data)
                return
            if head.status != 100:  # RFC 9110 15.2: the client's wait for a 100 has ended here
                exchange.downstream.interim(head.status, head.fields)
            if not data:
                return

    def _answer(self, exchange: NativeExchange, head: ResponseHead, behind: bytes) -> None:
        """Pass the final head on, and the bytes behind it."""
        self._pool.answered(head.status)
        length = head.plain_length
        if length and exchange.request.method != b"HEAD":
            self._phase, self._left = LENGTH, length
            exchange.downstream.head(head.status, head.reason, head.fields, length)
        else:
            self._answer_framed(exchange, head)
        if not exchange.body_ended:
            self._answered_early(exchange, head)
        if behind and self._exchange is exchange:
            self._read_body(exchange, behind)

    def _answer_framed(self, exchange: NativeExchange, head: ResponseHead) -> None:
        """Pass a final head on that is not plain."""
        self._phase = self._framed_as(exchange, head)
        self._reusable = self._reusable and head.keeps_alive
        self._streaming = head.event_stream
        if head.keep_alive is not None:
            self._pool.idle_limit.announced(head.keep_alive)
        fields = head.dated(self._pool.ticker.date)
        exchange.downstream.head(head.status, head.reason, fields, head.length)
        if self._streaming:
            exchange.request.forget_head()
            exchange.becomes_stream()

    def _remember(self, head: ResponseHead) -> None:
        small = len(head.block) <= REMEMBERED_SIZE and len(head.fields) <= REMEMBERED_FIELDS
        self._remembered = head if small and not head.event_stream else None

    def _framed_as(self, exchange: NativeExchange, head: ResponseHead) -> int:
        """RFC 9112 6.3, in its order."""
        if exchange.request.method == b"HEAD" or not head.has_content:
            # Some servers send the content nevertheless, and it can come late.
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

    # ---- bodies

    def _read_body(self, exchange: NativeExchange, data: bytes) -> None:
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

    def _read_chunks(self, exchange: NativeExchange, data: bytes) -> None:
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
