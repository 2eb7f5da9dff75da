"""One request by httpx, and its attempts. Each attempt has a connection and a task in which httpx uses it.

CONNECTING ──▶ SENDING ── request sent ──▶ AWAITING ── head received ──▶ ANSWERING ──▶ over
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

import httpcore
import httpx

from gateway.errors import Refusal
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.httpx_engine.head_filter import HeadGate
from gateway.proxy.httpx_engine.network_stream import Wire
from gateway.proxy.httpx_engine.transport import Transport, built, refusal_of
from gateway.proxy.interfaces import Downstream, Field
from gateway.proxy.response_head import ResponseHead

if TYPE_CHECKING:
    from gateway.proxy.httpx_engine.engine import HttpxEngine, HttpxLine

_HELD: Final = 65536  # bytes of a body that wait for the upstream before reading from the client pauses


class HttpxExchange(UpstreamExchange):
    """Implements Exchange. `attempt` sends it; None while it waits for a place, and at its end."""

    attempt: "Attempt | None" = None

    def __init__(self, engine: "HttpxEngine", request: UpstreamRequest, downstream: Downstream) -> None:
        super().__init__(engine, request, downstream)
        self._upload: Upload | None = None
        self._pieces: list[bytes] = []  # of the body, not yet sent
        self._held = 0
        self._upload_paused = False
        self._upload_over = False

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the upload waits for the target."""
        return self._upload_paused

    @property
    def waiting(self) -> bool:
        """Whether the request has no connection yet."""
        return self.attempt is None or self.attempt.is_connecting

    def send(self, data: bytes) -> None:
        """Keep a piece of the body until httpx asks for it."""
        if self._upload_over:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _HELD and not self._upload_paused:
            self._upload_paused = True
            self.downstream.pause_upload()
        self._tell()

    def end_body(self) -> None:
        """Complete the body."""
        self.body_ended = True
        self._tell()

    def cancel(self) -> None:
        """End the attempt or the wait, because the client has left."""
        if self.attempt is not None:
            self.attempt.drop()
        elif self.pool is not None:
            self.pool.withdraw(self)

    def pause(self) -> None:
        """Stop reading the response, because the client is slower."""
        self.paused = True
        if self.attempt is not None:
            self.attempt.pause()

    def resume(self) -> None:
        """Continue to read the response."""
        self.paused = False
        if self.attempt is not None:
            self.attempt.resume()

    # ---- for the attempt

    def upload(self) -> "Upload":
        """Return the rest of the body in the form that httpx expects."""
        self._upload = Upload(self)
        return self._upload

    def stop_upload(self) -> None:
        """Stop the upload, because the upstream has closed."""
        if self._upload is not None:
            self._upload.stop()

    def end_upload(self) -> None:
        """Drop the upload, which refers back to this object, at the end of the attempt."""
        self._upload = None

    def forget_body(self) -> None:
        """Drop the rest of the body. The response has begun, so the request is not repeated."""
        self._upload_over = True
        self.taken()

    def taken(self) -> bytes:
        """Return the part of the body that has arrived since the last call. It counts as sent, so it cannot be sent
        again."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._upload_paused:
            self._upload_paused = False
            self.downstream.resume_upload()
        return b"".join(pieces)

    @property
    def holds_body(self) -> bool:
        """Whether a part of the body waits to be sent."""
        return self._held > 0

    def _tell(self) -> None:
        if self._upload is not None:
            self._upload.tell()


class Upload(httpx.AsyncByteStream):
    """The body of a request for httpx. An iterator, because a generator that is not exhausted would have to be
    closed."""

    def __init__(self, exchange: HttpxExchange) -> None:
        self._exchange = exchange
        self._news = asyncio.Event()
        self._stopped = False

    def tell(self) -> None:
        """Note that more of the body, or its end, has arrived."""
        self._news.set()

    def stop(self) -> None:
        """End the iteration, because the upstream takes no more."""
        self._stopped = True
        self._news.set()

    def __aiter__(self) -> "Upload":
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        while True:
            if exchange.body_ended and not exchange.holds_body:
                raise StopAsyncIteration
            if self._stopped:
                # httpcore raises the same error when it cannot write, and then reads the response, if there is one.
                raise httpcore.WriteError("the upstream has closed")
            if exchange.holds_body:
                exchange.body_sent = True
                return exchange.taken()
            self._news.clear()
            await self._news.wait()


# The phases of an attempt.
CONNECTING: Final = 0
SENDING: Final = 1
AWAITING: Final = 2
ANSWERING: Final = 3

# Codes of refusals for which the target is responsible. Any other is an error of the gateway.
_TARGET_FAILED: Final = frozenset(("upstream_unreachable", "upstream_timeout"))


class Attempt:
    """Implements Listener. It ends once: with the response, with a failure, or when it is dropped."""

    def __init__(self, exchange: HttpxExchange, line: "HttpxLine", loop: asyncio.AbstractEventLoop) -> None:
        exchange.attempt = self
        self._exchange = exchange
        self._line = line
        self._loop = loop
        self._phase = CONNECTING
        self._deadline: float | None = None
        self._streaming = False
        self._is_over = False
        self._wire = Wire(self)
        self._gate = HeadGate(line.limits.max_head_size, self._interim)
        self._pieces: list[bytes] = []  # of the response's body, from one portion
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._unlink)

    @property
    def is_connecting(self) -> bool:
        """Whether the attempt has no connection yet."""
        return self._phase == CONNECTING

    @property
    def holds_connection(self) -> bool:
        """Whether the attempt has a connection."""
        return self._wire.is_open

    @property
    def exchange(self) -> HttpxExchange:
        """The request in progress."""
        return self._exchange

    # ---- the request

    async def _run(self) -> None:
        try:
            await self._converse()
        except asyncio.CancelledError:
            # A cancelled task holds this error, and anyio's frames in its traceback hold the task.
            if not self._is_over:
                raise
        except httpx.TransportError as error:
            self._fail(refusal_of(error, self._line.target))
        except Exception as error:  # the client waits for a response after any error
            self._loop.call_exception_handler({"message": "a request by httpx failed", "exception": error})
            self._fail(Refusal("internal_error", f"{self._line.target}: {type(error).__name__}"))

    async def _converse(self) -> None:
        exchange = self._exchange
        body = httpx.ByteStream(b"") if exchange.request.length == 0 else exchange.upload()
        async with Transport(self._connect) as transport:
            response = await transport.handle_async_request(built(exchange.request, self._line.target, body))
            head = self._answered()
            assert isinstance(response.stream, httpx.AsyncByteStream)
            if head.has_content and exchange.request.method != b"HEAD":
                async for piece in response.stream:
                    self._pieces.append(piece)
            self._complete()

    async def _connect(self) -> httpcore.AsyncNetworkStream:
        def made() -> Wire:
            self._wire = Wire(self)  # one for each address that is tried
            return self._wire

        await self._line.dialler.dial(made, self._line.limits.connect_timeout)
        self._phase = SENDING
        self._exchange.downstream.forwarded_at = monotonic()
        if self._exchange.paused:
            self._wire.pause()
        return self._wire

    def _answered(self) -> ResponseHead:
        head, downstream = self._gate.head, self._exchange.downstream
        assert head is not None  # h11 has read nothing before the head
        self._phase = ANSWERING
        self._streaming = head.event_stream
        self._line.answered(head.status)
        self._exchange.forget_body()
        downstream.head(head.status, head.reason, head.dated(self._line.ticker.date), head.length)
        if head.event_stream and not self._is_over:
            self._exchange.becomes_stream()
        return head

    def _complete(self) -> None:
        self._hand_over()
        if not self._is_over:
            self._end()
            self._exchange.downstream.end()

    def _unlink(self, task: "asyncio.Task[None]") -> None:
        """Drop the references back to this object, because a cycle would keep the request."""
        if not self._is_over:
            self._end()
        del self._task, self._wire, self._gate

    # ---- Listener

    def heard(self, data: bytes) -> tuple[bytes, ...]:
        return () if self._is_over else self._gate.feed(data)

    def content(self, data: bytes) -> bytes:
        return self._gate.content(data)

    def upstream_left(self) -> None:
        if self._phase != CONNECTING and not self._is_over:  # before, it was an address that is not used
            self._exchange.stop_upload()

    def wants_more(self) -> None:
        """Note that the request was sent, completely or as far as the upstream took it, or that httpcore has processed
        a portion of the response."""
        if self._is_over:
            return
        if self._phase == SENDING:
            self._phase = AWAITING
            timeout = self._exchange.request.response_timeout
            self._deadline = None if timeout is None else self._line.ticker.after(timeout)
        else:
            self._hand_over()
            self._flush()
            self._expect_more()

    def stuck(self) -> None:
        self._deadline = self._line.ticker.after(self._line.limits.idle_timeout)

    def unstuck(self) -> None:
        self._deadline = None

    def _interim(self, status: int, fields: Sequence[Field]) -> None:
        """Pass on an interim response at once, even before the request is complete."""
        self._exchange.downstream.interim(status, fields)
        self._flush()

    def _hand_over(self) -> None:
        """Pass on the pieces of one portion together, because a thousand chunks of one byte would be a thousand
        writes."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self._is_over:
            self._exchange.downstream.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _flush(self) -> None:
        if not self._is_over:
            self._exchange.downstream.flush()

    def _expect_more(self) -> None:
        """Restart the time limit for the next bytes, unless the client is the slow side."""
        if self._phase == ANSWERING and not self._is_over:
            for_ever = self._streaming or self._exchange.paused
            self._deadline = None if for_ever else self._line.ticker.after(self._line.limits.idle_timeout)

    # ---- for the exchange

    def drop(self) -> None:
        """Cancel the attempt, because the client has left."""
        self._end()
        self._task.cancel()

    def pause(self) -> None:
        """Stop reading, and pause the upstream's time limit."""
        self._wire.pause()
        self._expect_more()

    def resume(self) -> None:
        """Continue to read."""
        self._wire.resume()
        self._expect_more()

    # ---- the end

    def tick(self, now: float) -> None:
        """Fail the attempt of an upstream that misses its deadline."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(Refusal("upstream_timeout", f"{self._line.target}: no answer in time"))
            self._task.cancel()

    def _fail(self, refusal: Refusal) -> None:
        """Fail the attempt. Before a head the request can go to another target, if that is safe. After a head the
        response is incomplete."""
        if self._is_over:
            return
        unsent = self._phase == CONNECTING and refusal.code in _TARGET_FAILED
        unheard = unsent or (refusal.code == "upstream_unreachable" and not self._gate.begun)
        counts = self._counts(refusal)
        begun = self._phase == ANSWERING
        if begun:
            self._hand_over()
        if self._is_over:  # the client has disconnected by then
            return
        self._end()
        if begun:
            self._exchange.downstream.abort(refusal.reason)
        else:
            self._line.failed(self._exchange, refusal, may_repeat=unheard, unsent=unsent, counts=counts)

    def _counts(self, refusal: Refusal) -> bool:
        """Return whether the failure counts against the target. A malformed head can be the fault of one resource."""
        if refusal.code == "upstream_timeout" and self._phase == AWAITING:
            return self._line.counts_timeout(self._exchange)
        if refusal.code == "upstream_invalid":
            return not self._gate.speaks_http
        return refusal.code in _TARGET_FAILED

    def _end(self) -> None:
        """Close the connection and free its place before the client is told, because the next request can follow at
        once."""
        self._is_over = True
        self._deadline = None
        self._exchange.attempt = None
        self._exchange.end_upload()
        self._wire.abort()
        self._line.give_back(self)
