"""One request by httpx, on a connection of its own.

    NEW ── begin ──▶ SENDING ── the request is out ──▶ AWAITING ── the head has come ──▶ ANSWERING ──▶ OVER

httpcore looks at a connection only when it needs something from it. This one looks at all times: it checks the head of
a response as it comes, passes 103 on at once, and notices an upstream that closes while the request is being sent.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Final, cast

import httpcore
import httpx

from gateway.errors import Refusal
from gateway.proxy import unread
from gateway.proxy.connection_pool import ConnectionPool
from gateway.proxy.exchange import TargetPool, UpstreamExchange
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.httpx_engine.head_filter import HeadFilter
from gateway.proxy.httpx_engine.transport import HELD, RequestBody, Transport, httpx_request, refusal_of
from gateway.proxy.interfaces import Downstream, Exchange, Field
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.public_fields import passed_on, without_own_cookies
from gateway.proxy.response_head import ResponseFault, ResponseHead
from gateway.proxy.target_queue import TargetQueue
from gateway.proxy.upstream import Upstream
from gateway.samples import Sample
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker

NEW: Final = 0
SENDING: Final = 1
AWAITING: Final = 2
ANSWERING: Final = 3
OVER: Final = 4

# Bytes that httpcore gets at once and parses without a pause: 5,000 chunks of a byte take it 50 ms.
_PORTION: Final = 32768
# Codes of refusals for which the target is responsible. Any other is an error of the gateway.
_TARGET_FAILED: Final = frozenset(("upstream_unreachable", "upstream_timeout"))


class HttpxConnection(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """Implements Connection for its exchange, PooledConnection for its pool, and a network stream for httpcore.

    It serves one request, and ends once: with the response, with a failure, or because its client has left."""

    keeps_alive = False
    idle_since = 0.0
    _transport: asyncio.Transport
    _exchange: UpstreamExchange
    _body: RequestBody
    _task: asyncio.Task[None]

    def __init__(self, queue: TargetQueue, pool: ConnectionPool) -> None:
        self._queue = queue
        self._pool = pool
        self._phase = NEW
        self._deadline: float | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        # the response, on its way to httpcore
        self._filter = HeadFilter(queue.limits.max_head_size, self._interim)
        self._content = asyncio.StreamReader(limit=HELD // 2)  # the bytes after the head
        self._closed = False
        self._loss: str | None = None  # the reason of a close that does not end the response
        self._head_read = False
        self._head_came = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()

    # ---- PooledConnection

    @property
    def exchange(self) -> UpstreamExchange | None:
        return None if self._phase in (NEW, OVER) else self._exchange

    @property
    def is_new(self) -> bool:
        return self._phase == NEW

    def is_silent(self) -> bool:
        """It is never idle."""
        return False

    def begin(self, exchange: UpstreamExchange, now: float) -> None:
        self._exchange = exchange
        self._body = RequestBody(exchange.downstream)
        self._phase = SENDING
        exchange.connection = self
        exchange.downstream.forwarded_at = monotonic()
        if exchange.paused:
            self.pause_response()
        if exchange.early is not None:
            exchange.send_early(self)
        if exchange.body_ended:
            self._body.end()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._unlink)

    def tick(self, now: float) -> None:
        """Fail the attempt of an upstream that misses its deadline."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(Refusal("upstream_timeout", f"{self._queue.target}: no answer in time"))
            self._task.cancel()

    def close(self) -> None:
        self._transport.abort()

    def close_when_done(self) -> None:
        """Nothing: it closes after its only request."""

    # ---- Connection

    @property
    def upload_is_stuck(self) -> bool:
        return self._body.is_stuck

    def send_body(self, data: bytes) -> None:
        if self._phase != ANSWERING:
            self._exchange.body_sent = True
            self._body.add(data)

    def finish_request(self) -> None:
        self._body.end()

    def drop(self) -> None:
        self._end()
        self._task.cancel()

    def pause_response(self) -> None:
        self._resumed.clear()
        self._expect_more()

    def resume_response(self) -> None:
        self._resumed.set()
        self._expect_more()

    # ---- the request in httpx

    async def _run(self) -> None:
        try:
            await self._converse()
        except asyncio.CancelledError:
            # A cancelled task holds this error, and anyio's frames in its traceback hold the task.
            if self._phase != OVER:
                raise
        except (httpx.TransportError, ResponseFault) as error:
            self._fail(refusal_of(error, self._queue.target))
        except Exception as error:  # a client waits for a response after any error
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request by httpx failed", "exception": error}
            )
            self._fail(Refusal("internal_error", f"{self._queue.target}: {type(error).__name__}"))

    async def _converse(self) -> None:
        request = self._exchange.request
        async with Transport(self) as transport:
            response = await transport.handle_async_request(httpx_request(request, self._queue.target, self._body))
            if self._answered().has_content and request.method != b"HEAD":
                async for piece in response.aiter_raw():
                    if self._phase != OVER:
                        self._exchange.downstream.body(piece)
            if self._phase != OVER:
                self._end()
                self._exchange.downstream.end()

    def _answered(self) -> ResponseHead:
        head, downstream = self._filter.head, self._exchange.downstream
        assert head is not None  # h11 has read nothing before the head
        self._phase = ANSWERING
        self._queue.answered(head.status)
        self._body.take()  # no other response follows, so the rest of the body is not needed
        fields, serialized = passed_on(head, self._queue.ticker.date, self._exchange.request, self._queue.target)
        downstream.head(head.status, head.reason, fields, head.length, serialized)
        if head.event_stream and self.exchange is not None:
            self._exchange.becomes_stream()
        return head

    def _interim(self, status: int, fields: Sequence[Field]) -> None:
        self._exchange.downstream.interim(status, without_own_cookies(fields, self._exchange.request))
        self._flush()

    def _flush(self) -> None:
        if self._phase != OVER:
            self._exchange.downstream.flush()

    # ---- httpcore.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next bytes, b"" at the end. A head comes in one piece, because h11 limits it otherwise.

        httpcore reads for the first time when it has sent the request, and later when it has parsed a portion."""
        if self._phase == SENDING:
            self._phase = AWAITING
            timeout = self._exchange.request.response_timeout
            self._deadline = None if timeout is None else self._queue.ticker.after(timeout)
        self._flush()
        self._expect_more()
        await asyncio.sleep(0)  # other tasks have their turn between two portions
        if not self._head_read:
            self._head_read = True
            await self._head_came.wait()
            await self._resumed.wait()
            if self._filter.head is not None:
                return self._filter.head.block
        while data := await self._content.read(_PORTION):
            await self._resumed.wait()
            if content := self._filter.content(data):
                return content
        if self._loss is not None:
            raise httpcore.ReadError(self._loss)
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send, and wait until the socket has taken enough of it."""
        if self._closed:
            raise httpcore.WriteError("the upstream has closed")
        self._transport.write(buffer)
        if not self._writable.is_set():
            self._deadline = self._queue.ticker.after(self._queue.limits.idle_timeout)
            await self._writable.wait()
            self._deadline = None

    async def aclose(self) -> None:
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        """Nothing: httpcore uses it to detect HTTP/2 and stale connections."""
        return None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop has another base class
        transport.set_write_buffer_limits(high=HELD)
        self._content.set_transport(transport)
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        if self._phase == NEW:
            self.close()  # the bytes belong to no request
        if self._phase in (NEW, OVER):
            return
        try:
            content = self._filter.feed(data)
        except ResponseFault as fault:
            self._fail(refusal_of(fault, self._queue.target))
            self._task.cancel()
            return
        if self._filter.head is not None:
            self._head_came.set()
            self._content.feed_data(content)

    def eof_received(self) -> bool:
        if self._phase != OVER:
            self._receive_end("closed: end of file" if self._filter.head is None else None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            for data in unread.take(self._transport):
                self.data_received(data)
        # Without an end of file before it, this is a reset, or TLS without close_notify (RFC 9112 9.8).
        self._pool.lost(self)
        self._receive_end(f"closed: {exc or 'without close_notify'}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _receive_end(self, loss: str | None) -> None:
        if self._closed:
            return
        self._closed, self._loss = True, loss
        self._content.feed_eof()
        self._head_came.set()
        self._writable.set()
        if self._phase != NEW:
            self._body.stop()

    # ---- the end

    def _expect_more(self) -> None:
        """The time-out of the next bytes starts, unless the client does not read, or the stream can be quiet."""
        if self._phase == ANSWERING:
            unlimited = self._exchange.streams or not self._resumed.is_set()
            self._deadline = None if unlimited else self._queue.ticker.after(self._queue.limits.idle_timeout)

    def _fail(self, refusal: Refusal) -> None:
        """Before a head the request can be sent again. After it the response is broken off."""
        phase = self._phase
        if phase == OVER:
            return
        counts = self._counts(refusal)
        self._end()
        if phase == ANSWERING:
            self._exchange.downstream.abort(refusal.reason)
        else:
            may_repeat = refusal.code == "upstream_unreachable" and not self._filter.begun
            self._queue.failed(self._exchange, refusal, may_repeat=may_repeat, counts=counts)

    def _counts(self, refusal: Refusal) -> bool:
        """Return whether the failure counts against the target. A malformed head can be the fault of one resource."""
        if refusal.code == "upstream_timeout" and self._phase == AWAITING:
            return self._queue.counts_timeout(self._exchange)
        if refusal.code == "upstream_invalid":
            return not self._filter.speaks_http
        return refusal.code in _TARGET_FAILED

    def _end(self) -> None:
        """Free the place before the downstream learns of the end: its next request can follow at once."""
        self._phase = OVER
        self._deadline = None
        self._exchange.connection = None
        self._transport.abort()
        self._pool.lost(self)

    def _unlink(self, task: "asyncio.Task[None]") -> None:
        """Drop the references back to this object, because a cycle would keep the request."""
        if self._phase != OVER:
            self._end()
        del self._task, self._filter


class HttpxEngine:
    """Implements Engine with httpx's transport.

    The native engine handles WebSocket handshakes, for which both engines use the same relay. It shares the health of
    the targets.
    """

    def __init__(
        self, settings: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker, tls: ssl.SSLContext | None
    ) -> None:
        self.requests = Upstream(settings, HttpxConnection, loop=loop, ticker=ticker, tls=tls)
        self._handshakes = Upstream(
            settings, UpstreamConnection, loop=loop, ticker=ticker, tls=tls, beside=self.requests
        )

    @property
    def pools(self) -> Sequence[TargetPool]:
        """Those of the requests, in the file's order."""
        return self.requests.pools

    @property
    def open_connections(self) -> int:
        return self.requests.open_connections + self._handshakes.open_connections

    def samples(self, now: float) -> Iterator[Sample]:
        yield from self.requests.samples(now)
        yield from self._handshakes.traffic()

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        upstream = self.requests if request.handshake is None else self._handshakes
        return upstream.open(request, downstream, now)

    def close(self) -> None:
        self.requests.close()
        self._handshakes.close()
