"""One attempt at a request: a connection of its own, and a task in which httpx speaks on it.

CONNECTING ──▶ SENDING ── the request is out ──▶ AWAITING ── the head has come ──▶ ANSWERING ──▶ over

One request under way by httpx: what the face holds, and what of the body waits to be sent.
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

_HELD: Final = 65536  # bytes of a body that wait for the upstream before the caller is not read from any more


class HttpxExchange(UpstreamExchange):
    """Implements Exchange. `attempt` is what sends it now; None while it waits for a place, and when it is over."""

    attempt: "Attempt | None" = None

    def __init__(self, engine: "HttpxEngine", request: UpstreamRequest, downstream: Downstream) -> None:
        super().__init__(engine, request, downstream)
        self._upload: Upload | None = None
        self._pieces: list[bytes] = []  # of the body, that wait to be sent
        self._held = 0
        self._upload_paused = False
        self._upload_over = False

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the upload waits for the target."""
        return self._upload_paused

    @property
    def waiting(self) -> bool:
        """Whether it has no connection yet."""
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
        """The body is complete."""
        self.body_ended = True
        self._tell()

    def cancel(self) -> None:
        """The caller has left."""
        if self.attempt is not None:
            self.attempt.drop()
        elif self.pool is not None:
            self.pool.withdraw(self)

    def pause(self) -> None:
        """The caller cannot keep up."""
        self.paused = True
        if self.attempt is not None:
            self.attempt.pause()

    def resume(self) -> None:
        """The caller takes the response again."""
        self.paused = False
        if self.attempt is not None:
            self.attempt.resume()

    # ---- for the attempt

    def upload(self) -> "Upload":
        """The body from here on, as httpx takes it."""
        self._upload = Upload(self)
        return self._upload

    def stop_upload(self) -> None:
        """The upstream has closed: what is still to be sent it does not take."""
        if self._upload is not None:
            self._upload.stop()

    def end_upload(self) -> None:
        """The attempt is over. The upload refers back to this object."""
        self._upload = None

    def forget_body(self) -> None:
        """The answer has begun, and there will be no other: nothing more of the body is needed."""
        self._upload_over = True
        self.taken()

    def taken(self) -> bytes:
        """What has come of the body since the last time. It is on its way: it cannot be sent again."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._upload_paused:
            self._upload_paused = False
            self.downstream.resume_upload()
        return b"".join(pieces)

    @property
    def holds_body(self) -> bool:
        """Whether anything of the body waits to be sent."""
        return self._held > 0

    def _tell(self) -> None:
        if self._upload is not None:
            self._upload.tell()


class Upload(httpx.AsyncByteStream):
    """The body of a request as httpx asks for it. An iterator: a generator that is not taken whole would have to be
    closed by somebody."""

    def __init__(self, exchange: HttpxExchange) -> None:
        self._exchange = exchange
        self._news = asyncio.Event()
        self._stopped = False

    def tell(self) -> None:
        """More has come, or the end."""
        self._news.set()

    def stop(self) -> None:
        """Nobody takes it any more."""
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
                # What httpcore raises itself when it cannot write: it goes on to what the upstream has said, if it has.
                raise httpcore.WriteError("the upstream has closed")
            if exchange.holds_body:
                exchange.body_sent = True
                return exchange.taken()
            self._news.clear()
            await self._news.wait()


# Where an attempt stands.
CONNECTING: Final = 0
SENDING: Final = 1
AWAITING: Final = 2
ANSWERING: Final = 3

# Codes of refusals that blame the target. Any other is an error of the gateway.
_TARGET_FAILED: Final = frozenset(("upstream_unreachable", "upstream_timeout"))


class Attempt:
    """Implements Listener. It ends by the response's end, by failing, or by being dropped; once."""

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
        """Whether it has no connection yet."""
        return self._phase == CONNECTING

    @property
    def holds_connection(self) -> bool:
        """Whether it has one now."""
        return self._wire.is_open

    @property
    def exchange(self) -> HttpxExchange:
        """The request that is sent."""
        return self._exchange

    # ---- the conversation

    async def _run(self) -> None:
        try:
            await self._converse()
        except asyncio.CancelledError:
            # A cancelled task keeps this error, and anyio's frames in its traceback keep the task.
            if not self._is_over:
                raise
        except httpx.TransportError as error:
            self._fail(refusal_of(error, self._line.target))
        except Exception as error:  # whatever it is, somebody waits for an answer
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
        assert head is not None  # h11 has seen nothing before
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
        """Drop what refers back to this object: a cycle would keep the request."""
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
        """The request is out, whole or as far as the upstream took it; or a portion of the answer is worked off."""
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
        """An interim response goes on at once, whether or not the request is out."""
        self._exchange.downstream.interim(status, fields)
        self._flush()

    def _hand_over(self) -> None:
        """The pieces of one portion as one: a thousand chunks of a byte would be a thousand writes."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self._is_over:
            self._exchange.downstream.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _flush(self) -> None:
        if not self._is_over:
            self._exchange.downstream.flush()

    def _expect_more(self) -> None:
        """The time for the next bytes runs from here, unless it is the caller who does not take them."""
        if self._phase == ANSWERING and not self._is_over:
            for_ever = self._streaming or self._exchange.paused
            self._deadline = None if for_ever else self._line.ticker.after(self._line.limits.idle_timeout)

    # ---- for the exchange

    def drop(self) -> None:
        """The caller has left: what still comes is for nobody."""
        self._end()
        self._task.cancel()

    def pause(self) -> None:
        """Do not read on, and do not blame the upstream for the silence."""
        self._wire.pause()
        self._expect_more()

    def resume(self) -> None:
        """Read on."""
        self._wire.resume()
        self._expect_more()

    # ---- the end

    def tick(self, now: float) -> None:
        """Give up on an upstream that lets its deadline pass."""
        if self._deadline is not None and now >= self._deadline:
            self._fail(Refusal("upstream_timeout", f"{self._line.target}: no answer in time"))
            self._task.cancel()

    def _fail(self, refusal: Refusal) -> None:
        """Before a head the request may go elsewhere, where it has left no trace; after it the answer is broken."""
        if self._is_over:
            return
        unsent = self._phase == CONNECTING and refusal.code in _TARGET_FAILED
        unheard = unsent or (refusal.code == "upstream_unreachable" and not self._gate.begun)
        counts = self._counts(refusal)
        begun = self._phase == ANSWERING
        if begun:
            self._hand_over()
        if self._is_over:  # the caller did not want even that
            return
        self._end()
        if begun:
            self._exchange.downstream.abort(refusal.reason)
        else:
            self._line.failed(self._exchange, refusal, may_repeat=unheard, unsent=unsent, counts=counts)

    def _counts(self, refusal: Refusal) -> bool:
        """Whether the failure counts against the target. A malformed head can be the fault of one resource."""
        if refusal.code == "upstream_timeout" and self._phase == AWAITING:
            return self._line.counts_timeout(self._exchange)
        if refusal.code == "upstream_invalid":
            return not self._gate.speaks_http
        return refusal.code in _TARGET_FAILED

    def _end(self) -> None:
        """The connection is closed and its place is free before anybody is told: the next request may follow."""
        self._is_over = True
        self._deadline = None
        self._exchange.attempt = None
        self._exchange.end_upload()
        self._wire.abort()
        self._line.give_back(self)
