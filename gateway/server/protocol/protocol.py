"""One connection of a caller under `gateway serve`: reads requests, lets the gate decide, and sends them on.

This stands in the place of uvicorn's own HTTP protocol class, because ASGI cannot carry what a proxy needs (interim
responses, trailers, an abort, a head time-out, the raw head) and costs as much again as the proxying.

A request goes through without a task, a future or a timer when its route is proxied and its user is in the cache.
llhttp is fed one head at a time, so that a second, pipelined request is not even parsed before the first is answered,
and its answers cannot overtake each other. Bodies do not go through llhttp at all.

    HEAD ── head complete, decided ──▶ BODY ── body complete ──▶ RESPONDING ── answered ──▶ HEAD
                                         └── answered before the body ended ──▶ LINGER ──▶ closed
"""

import asyncio
from time import monotonic
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import Refusal
from gateway.gate.admission import Admission, Answered, RequestHead, Waiting
from gateway.gate.gate import Decider, Decision
from gateway.policy.builtin_routes import VERIFY
from gateway.proxy.proxy import Proxy
from gateway.server.protocol.asgi_bridge import AsgiBridge
from gateway.server.protocol.connection import HELD, CallerConnection
from gateway.server.protocol.phases import BODY, DISCARD, HEAD, LINGER, RESPONDING
from gateway.server.protocol.request_parser import HeadReader, asks_for_websocket, stays_open
from gateway.server.protocol.response_writer import ResponseWriter
from gateway.server.runtime import Runtime
from gateway.wire.chunked import ChunkedFault, ChunkedTooLarge

_AT_ONCE: Final = 16  # heads that are read before others get their turn: a packet may hold ten thousand


class GatewayProtocol(CallerConnection):
    """uvicorn makes one for each connection."""

    def __init__(
        self,
        runtime: Runtime,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(runtime, server_state.connections)
        self._heads = HeadReader(runtime.server.max_header_size)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    # ---- reading

    def _advance(self) -> None:
        """Take from the buffer what can be taken. Not re-entered: an answer made on the way comes back to the loop."""
        if self._advancing:
            return
        if not self._turn_due:
            self._advancing = True
            try:
                steps = _AT_ONCE
                while self._buffer and self._step():
                    steps -= 1
                    if not steps:
                        self._end_turn()
                        break
            finally:
                self._advancing = False
        if len(self._buffer) > HELD and not self.transport.is_closing():
            self.transport.pause_reading()

    def _end_turn(self) -> None:
        """Leave the rest of the buffer to a later turn of the loop: other connections come first."""
        self._turn_due = True
        self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Go on with the buffer, and read on once it holds little enough."""
        self._turn_due = False
        self._advance()
        if self._phase == BODY and not self._upload_paused and len(self._buffer) <= HELD:
            self._resume_reading()

    def _step(self) -> bool:
        """Take one piece; False when nothing more can be taken now."""
        phase = self._phase
        if phase == HEAD:
            # A caller who does not take its answers gets no more of them made.
            return not self._full and self._read_head()
        if phase == BODY and self._exchange is not None:
            return self._read_body()
        if phase == DISCARD:
            return self._discard()
        if phase == LINGER:
            self._throw_away()
        return False

    def _read_head(self) -> bool:
        heads = self._heads
        begun = heads.begun
        try:
            complete, self._buffer = heads.feed(self._buffer)
        except Refusal as refusal:
            self._buffer = b""
            self._refuse_early(refusal)
            return False
        if complete:
            self._begin()
        elif heads.begun and not begun:  # empty lines alone begin nothing
            self._deadline = self.runtime.ticker.after(self.runtime.server.header_timeout)
        return complete

    def _begin(self) -> None:
        """A head is complete: decide on it, and send it on."""
        heads = self._heads
        runtime = self.runtime
        if not heads.repeated:
            self._fields = runtime.rules.sort(heads.fields)
        request = runtime.head(heads.method, heads.target, self._fields, self._peer, heads.minor)
        answer = self._answer = ResponseWriter(self, request, monotonic(), not heads.keep_alive)
        self._deadline = None
        # A header block that is kept to be recognised announces neither a body nor a WebSocket, as its first request.
        if heads.repeated:
            self._phase = RESPONDING
        elif not self._announces(request, answer):
            return
        tracer, admit = runtime.tracer, runtime.gate.admit
        decision = admit(request) if tracer is None else tracer.decide(admit, request)
        if isinstance(decision, Waiting):
            self._deciding = self.loop.create_task(self._conclude(decision, answer, runtime.gate, runtime.proxy))
        else:
            self._proceed(decision, answer, runtime.proxy)

    def _announces(self, request: RequestHead, answer: ResponseWriter) -> bool:
        """Find out what follows the head; False where that cannot be, which is answered then."""
        heads = self._heads
        if not heads.minor:
            answer.close_after = not stays_open(request)
        self._phase = BODY  # for all that is known yet: what follows may have to be read over
        try:
            self._left, self._chunked = heads.framing(request)
            if heads.method == b"CONNECT":
                raise Refusal("method_not_implemented", "CONNECT")
            request.websocket = request.fields.upgrade is not None and asks_for_websocket(request)
            if request.websocket and (self._left or self._chunked):
                raise Refusal("bad_request", "a WebSocket handshake with a body")
        except Refusal as refusal:
            answer.close_after = True
            answer.refuse(refusal)
            return False
        has_body = self._chunked or self._left > 0
        self._phase = BODY if has_body else RESPONDING
        self._wants_continue = has_body and _wants_continue(request)
        return True

    async def _conclude(self, waiting: Waiting, answer: ResponseWriter, gate: Decider, proxy: Proxy) -> None:
        """`gate` and `proxy` are those of the policy that matched: it may be another by now."""
        trace, concluding = waiting.request.trace, gate.conclude(waiting)
        decision = await (concluding if trace is None else trace.look_up(concluding))
        self._deciding = None
        if self._answer is answer:
            self._proceed(decision, answer, proxy)
            self._resume_reading()
            self._advance()

    def _proceed(self, decision: Decision, answer: ResponseWriter, proxy: Proxy) -> None:
        if isinstance(decision, Refusal):
            answer.refuse(decision)
            return
        if isinstance(decision, Answered):
            answer.write_direct(decision)
            return
        answer.admission = decision
        length = None if self._chunked else self._left
        try:
            if decision.route.upstream is None:
                if decision.route.endpoint == VERIFY:
                    self._verify(decision, answer)
                    return
                self._exchange = AsgiBridge(self.runtime.own, decision, answer, self._heads.fields)
            else:
                self._exchange = proxy.open(decision, answer, length, answer.started)
        except Refusal as refusal:
            answer.refuse(refusal)
            return
        if self._phase == BODY:
            self._expect_body(answer)
        elif decision.route.upstream is None:
            self._exchange.end_body()

    # ---- forward authorization

    def _verify(self, question: Admission, answer: ResponseWriter) -> None:
        """Answer whether the request that is asked about may pass."""
        gate = self.runtime.judge
        verdict = self.runtime.verifier.ask(gate, question)
        if isinstance(verdict, Waiting):
            self._deciding = self.loop.create_task(self._conclude_verdict(verdict, question, answer, gate))
        else:
            answer.write_verdict(verdict)

    async def _conclude_verdict(
        self, waiting: Waiting, question: Admission, answer: ResponseWriter, gate: Decider
    ) -> None:
        verdict = await self.runtime.verifier.conclude(gate, question, waiting)
        self._deciding = None
        if self._answer is answer:
            answer.write_verdict(verdict)
            self._resume_reading()
            self._advance()

    # ---- the request body

    def _expect_body(self, answer: ResponseWriter) -> None:
        self._deadline = self.runtime.ticker.after(self.runtime.server.body_timeout)
        self._upload_rate = None
        if self._chunked:
            self._decoder = self._chunked_decoder()
        if self._wants_continue and not self._buffer:
            answer.send_continue()

    def _read_body(self) -> bool:
        exchange, answer, data = self._exchange, self._answer, self._buffer
        assert exchange is not None and answer is not None
        self._buffer = b""
        self._deadline = None if self._upload_paused else self.runtime.ticker.after(self.runtime.server.body_timeout)
        if self._chunked:
            return self._read_chunks(data, answer)
        if len(data) > self._left:
            data, self._buffer = data[: self._left], data[self._left :]
        self._left -= len(data)
        answer.received += len(data)
        exchange.write(data)
        if not self._left and self._answer is answer:
            self._body_complete()
        return True

    def _read_chunks(self, data: bytes, answer: ResponseWriter) -> bool:
        decoder = self._decoder
        assert decoder is not None and self._exchange is not None
        pieces: list[bytes] = []
        try:
            self._buffer = decoder.feed(data, pieces)
        except ChunkedFault as fault:
            self._exchange.cancel()
            self._exchange = None
            answer.close_after = True
            code = "headers_too_large" if isinstance(fault, ChunkedTooLarge) else "bad_request"
            answer.refuse(Refusal(code, str(fault)))
            return False
        if pieces:
            # One write for all pieces of a read: a thousand chunks of one byte would be a thousand writes.
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            answer.received += len(body)
            self._exchange.write(body)
        if decoder.done:
            if self._answer is answer:
                self._body_complete()
        elif self._buffer and self._phase == BODY:
            self._end_turn()
            return False
        return True

    def _body_complete(self) -> None:
        self._phase = RESPONDING
        self._deadline = self._decoder = self._upload_rate = None
        if self._upload_paused:  # nothing is left to be held back, and a caller who leaves is to be noticed
            self._resume_reading()
        if self._exchange is not None:
            self._exchange.end_body()

    def pause_upload(self) -> None:
        """The upstream is slow: the caller's silence from now on is our doing."""
        if self._phase == BODY and not self._upload_paused:
            self._upload_paused = True
            self._deadline = None
            self.transport.pause_reading()

    def resume_upload(self) -> None:
        if self._upload_paused:
            self._upload_paused = False
            self._deadline = self.runtime.ticker.after(self.runtime.server.body_timeout)
            self._resume_reading()


def _wants_continue(request: RequestHead) -> bool:
    expect = request.fields.expect
    return expect is not None and request.minor == 1 and expect.lower() == b"100-continue"
