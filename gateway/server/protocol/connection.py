"""One client connection of `gateway serve`: reads requests, asks the gate for decisions, and forwards.

It replaces uvicorn's HTTP protocol class. ASGI lacks features that a proxy needs (interim responses, trailers, an
abort, a head time-out, the raw head) and costs as much as the proxying itself. A proxied request of a cached user takes
no task, future or timer.

The phase determines how the next bytes of the client are read:

    HEAD ── head without a body ──────────────────▶ RESPONDING ── response complete ──▶ HEAD
      └──── head with a body ──▶ BODY ── complete ──▶ RESPONDING
                                   └──── answered early ──▶ DISCARD ── short rest read ──▶ HEAD
                                                      └───▶ LINGER ── time or bytes are up ──▶ closed
    RESPONDING ── 101 ──▶ TUNNEL ──▶ closed

llhttp reads one head at a time: it does not see a pipelined request before the response to the previous one is
complete, so responses cannot overtake each other. Bodies do not pass through llhttp.
"""

import asyncio
import contextlib
import select
import socket
import struct
from time import monotonic
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import Refusal
from gateway.gate.admission import Admission, DirectResponse, Peer, PendingDecision, RequestHead
from gateway.gate.gate import Decider, Decision
from gateway.policy.builtin_routes import VERIFY
from gateway.proxy.interfaces import Exchange
from gateway.proxy.proxy import Proxy
from gateway.proxy.slow_peers import StallWatch
from gateway.proxy.websocket_tunnel import Tunnel
from gateway.server.protocol.asgi_bridge import AsgiBridge
from gateway.server.protocol.body_reader import BodyReader
from gateway.server.protocol.request_parser import RequestHeadReader, asks_for_websocket, stays_open
from gateway.server.protocol.response_writer import ResponseWriter
from gateway.server.runtime import Runtime
from gateway.ticker import PERIOD
from gateway.wire.fields import NO_FIELDS
from gateway.wire.websocket import GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def reset_on_close(transport: asyncio.Transport) -> None:
    """Let the next close send a reset instead of an end of file."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def has_unread(transport: asyncio.Transport) -> bool:
    """Return whether the socket has data that the loop has not read yet. A busy loop runs its timers first."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


# Plain constants, because the look-up of an Enum member costs as much as parsing a header field.
HEAD: Final = 0
BODY: Final = 1
RESPONDING: Final = 2
DISCARD: Final = 3
LINGER: Final = 4
TUNNEL: Final = 5

HELD: Final = 65536  # Bytes of later requests that wait for the response to the current one.
_HEADS_PER_TURN: Final = 16  # Other connections come first after these: a packet can hold ten thousand heads.
_LINGER_SECONDS: Final = 5.0  # How long an unwanted body is read, so that the client sees the response.
_CLOSE_SECONDS: Final = 1.0  # How long a client has to answer the end of TLS.
_LINGER_BYTES: Final = 1 << 26  # How much of a chunked body is read in this time.
_REFUSED_CONNECTIONS: Final = 256  # Connections above `max_connections` that get a response before they are closed.


class ClientConnection(asyncio.Protocol):
    """One connection. uvicorn creates one per accepted socket."""

    def __init__(
        self,
        runtime: Runtime,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.runtime = runtime
        self.loop = runtime.loop
        self.observer = runtime.observer
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self.draining = False
        self._connections: set[Any] = server_state.connections
        self._peer: Peer = None  # type: ignore[assignment]  # set by connection_made
        self._heads = RequestHeadReader(runtime.server.max_header_size, runtime.header_rules)
        self._fields = NO_FIELDS
        self._phase = HEAD
        self._buffer = b""
        self._is_advancing = False
        self._turn_due = False  # The loop continues with the buffer by itself.
        self._deadline: float | None = None
        self._response: ResponseWriter | None = None
        self._exchange: Exchange | None = None
        self._deciding: asyncio.Task[None] | None = None
        self._body: BodyReader | None = None  # In the phases BODY and DISCARD.
        self._linger_bytes = HELD  # How much the client can still send in LINGER.
        self._is_full = False  # The transport holds as much unsent data as it should.
        self._stall_watch = StallWatch()
        self._tunnel: Tunnel | None = None

    @property
    def is_serving(self) -> bool:
        """Whether a request is in progress."""
        return self._response is not None

    @property
    def date(self) -> bytes:
        return self.runtime.ticker.date

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        transport.set_write_buffer_limits(high=262144)
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._peer = Peer(address, scheme, self.runtime.proxies)
        self._connections.add(self)
        self._deadline = self.runtime.ticker.after(self.runtime.server.header_timeout)
        excess = len(self._connections) - self.runtime.server.max_connections
        if excess > _REFUSED_CONNECTIONS:
            transport.abort()
        elif excess > 0:
            self._refuse_unread(Refusal("overloaded", "max_connections is reached", retry_after=1))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def eof_received(self) -> bool:
        return False  # The client has left, and its request is cancelled.

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._heads.close()
        self._buffer = b""
        self._phase, self._body = LINGER, None
        if self._deciding is not None:
            # A cancelled task keeps its CancelledError, whose traceback leads to this object.
            deciding, self._deciding = self._deciding, None
            deciding.cancel()
        if self._response is not None:
            self._response.client_left()
            self._response = None
        self._cancel_exchange()

    def pause_writing(self) -> None:
        self._is_full = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._is_full = False
        if self._exchange is not None:
            self._exchange.resume()
        elif self._phase == HEAD and self._buffer:
            self._resume_reading()
            self._advance()

    # ---- the buffer

    def _advance(self) -> None:
        """Process the buffer. Not re-entered: a response that is complete on the way returns to this loop."""
        if self._is_advancing:
            return
        if not self._turn_due:
            self._is_advancing = True
            try:
                steps = _HEADS_PER_TURN
                while self._buffer and self._step():
                    steps -= 1
                    if not steps:
                        self._end_turn()
                        break
            finally:
                self._is_advancing = False
        if len(self._buffer) > HELD and not self.transport.is_closing():
            self.transport.pause_reading()

    def _end_turn(self) -> None:
        """Leave the rest of the buffer to a later turn of the loop, so that other connections come first."""
        self._turn_due = True
        self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_due = False
        self._advance()
        if self._phase == BODY and len(self._buffer) <= HELD and self._body is not None and not self._body.held_back:
            self._resume_reading()

    def _step(self) -> bool:
        """Process one head or one piece of a body. False: the rest of the buffer has to wait."""
        phase = self._phase
        if phase == HEAD:
            # A client that does not read its responses gets no further ones.
            return not self._is_full and self._read_head()
        if phase == BODY:
            return self._exchange is not None and self._read_body()
        if phase == DISCARD:
            return self._discard()
        if phase == LINGER:
            self._linger_bytes -= len(self._buffer)
            self._buffer = b""
            if self._linger_bytes < 0:
                self.transport.abort()
        return False

    def _resume_reading(self) -> None:
        if self._body is not None:
            self._body.held_back = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # ---- the head

    def _read_head(self) -> bool:
        heads = self._heads
        begun = heads.begun
        try:
            complete, self._buffer = heads.feed(self._buffer)
        except Refusal as refusal:
            self._buffer = b""
            self._refuse_unread(refusal)
            return False
        if complete:
            self._begin_request()
        elif heads.begun and not begun:  # Empty lines alone do not begin a head.
            self._deadline = self.runtime.ticker.after(self.runtime.server.header_timeout)
        return complete

    def _refuse_unread(self, refusal: Refusal) -> None:
        """Refuse bytes that are not a readable request. Nothing behind them is readable."""
        heads = self._heads
        request = self.runtime.head(heads.method, heads.target, NO_FIELDS.copy(), self._peer, 1)
        self._response = ResponseWriter(self, request, monotonic(), True)
        self._expect(0)
        self._response.refuse(refusal)

    def _begin_request(self) -> None:
        """Decide on the request with a complete head, and forward it."""
        heads = self._heads
        runtime = self.runtime
        if not heads.repeated:
            self._fields = runtime.header_rules.classify(heads.shape, heads.values)
        request = runtime.head(heads.method, heads.target, self._fields, self._peer, heads.minor)
        response = self._response = ResponseWriter(self, request, monotonic(), not heads.keep_alive)
        self._deadline = None
        if heads.repeated or (self._fields.shape.is_unframed and heads.minor and heads.method != b"CONNECT"):
            self._phase = RESPONDING  # neither a body nor another protocol follows
        elif not self._read_framing(request, response):
            return
        tracer, admit = runtime.tracer, runtime.gate.admit
        decision = admit(request) if tracer is None else tracer.decide(admit, request)
        if isinstance(decision, PendingDecision):
            self._deciding = self.loop.create_task(self._resolve(decision, response, runtime.gate, runtime.proxy))
        else:
            self._proceed(decision, response, runtime.proxy)

    def _read_framing(self, request: RequestHead, response: ResponseWriter) -> bool:
        """Find out what follows the head. False: it is unreadable, and the request has been refused."""
        heads = self._heads
        length: int | None = 0
        if not heads.minor:
            response.close_after = not stays_open(request)
        try:
            length = heads.framing(request)
            if heads.method == b"CONNECT":
                raise Refusal("method_not_implemented", "CONNECT")
            request.websocket = request.fields.upgrade is not None and asks_for_websocket(request)
            if request.websocket and length != 0:
                raise Refusal("bad_request", "a WebSocket handshake with a body")
        except Refusal as refusal:
            self._expect(length)
            response.close_after = True
            response.refuse(refusal)
            return False
        if length == 0:
            self._phase = RESPONDING
        else:
            self._expect(length, wants_continue=_wants_continue(request))
        return True

    def _expect(self, length: int | None, *, wants_continue: bool = False) -> None:
        """Enter BODY. Also for an unreadable rest of the connection: see `_answered_early`."""
        limit = self.runtime.server.max_header_size
        self._phase = BODY
        self._body = BodyReader(length, max_trailer_size=limit, wants_continue=wants_continue)

    # ---- the decision

    async def _resolve(self, waiting: PendingDecision, response: ResponseWriter, gate: Decider, proxy: Proxy) -> None:
        """Wait for the decision. `gate` and `proxy` belong to the policy that matched, which a reload can replace."""
        trace, resolving = waiting.request.trace, gate.resolve(waiting)
        decision = await (resolving if trace is None else trace.look_up(resolving))
        self._deciding = None
        if self._response is response:
            self._proceed(decision, response, proxy)
            self._resume_reading()
            self._advance()

    def _proceed(self, decision: Decision, response: ResponseWriter, proxy: Proxy) -> None:
        if isinstance(decision, Refusal):
            response.refuse(decision)
            return
        if isinstance(decision, DirectResponse):
            response.write_direct(decision)
            return
        response.admission = decision
        body = self._body
        try:
            if decision.route.upstream is None:
                if decision.route.endpoint == VERIFY:
                    self._verify(decision, response)
                    return
                self._exchange = AsgiBridge(self.runtime.api, decision, response, self._heads.fields)
            else:
                self._exchange = proxy.open(decision, response, 0 if body is None else body.length, response.started)
        except Refusal as refusal:
            response.refuse(refusal)
            return
        if body is not None:
            self._deadline = self.runtime.ticker.after(self.runtime.server.body_timeout)
            if body.wants_continue and not self._buffer:
                response.send_continue()
        elif decision.route.upstream is None:
            self._exchange.end_body()

    def _verify(self, question: Admission, response: ResponseWriter) -> None:
        """Forward authorization: decide on the request that a proxy in front describes."""
        gate = self.runtime.public_gate
        verdict = self.runtime.verifier.ask(gate, question)
        if isinstance(verdict, PendingDecision):
            self._deciding = self.loop.create_task(self._resolve_verdict(verdict, question, response, gate))
        else:
            response.write_verdict(verdict)

    async def _resolve_verdict(
        self, waiting: PendingDecision, question: Admission, response: ResponseWriter, gate: Decider
    ) -> None:
        verdict = await self.runtime.verifier.resolve(gate, question, waiting)
        self._deciding = None
        if self._response is response:
            response.write_verdict(verdict)
            self._resume_reading()
            self._advance()

    # ---- the request body

    def _read_body(self) -> bool:
        body, exchange, response = self._body, self._exchange, self._response
        assert body is not None
        assert exchange is not None
        assert response is not None
        self._deadline = None if body.held_back else self.runtime.ticker.after(self.runtime.server.body_timeout)
        try:
            content, self._buffer = body.feed(self._buffer)
        except Refusal as refusal:
            self._buffer = b""
            self._refuse_body(response, refusal)
            return False
        if content:
            response.received += len(content)
            exchange.write(content)
        if body.is_complete:
            if self._response is response:
                self._end_body(body)
        elif self._buffer and self._phase == BODY:
            self._end_turn()
            return False
        return True

    def _end_body(self, body: BodyReader) -> None:
        self._phase = RESPONDING
        self._deadline = self._body = None
        if body.held_back:  # A paused transport does not notice that the client leaves.
            self._resume_reading()
        if self._exchange is not None:
            self._exchange.end_body()

    def _refuse_body(self, response: ResponseWriter, refusal: Refusal) -> None:
        self._cancel_exchange()
        response.close_after = True
        response.refuse(refusal)

    def pause_upload(self) -> None:
        """The upstream is slow. No time-out of the client runs until `resume_upload`."""
        if self._phase == BODY and self._body is not None and not self._body.held_back:
            self._body.held_back = True
            self._deadline = None
            self.transport.pause_reading()

    def resume_upload(self) -> None:
        if self._body is not None and self._body.held_back:
            self._deadline = self.runtime.ticker.after(self.runtime.server.body_timeout)
            self._resume_reading()

    # ---- the end of a response

    def response_ended(self, response: ResponseWriter, *, aborted: bool) -> None:
        if response is not self._response:
            return
        self._response = None
        exchange, self._exchange = self._exchange, None
        if aborted:
            if exchange is not None:
                exchange.cancel()
            self.transport.abort()
        elif self._body is not None:
            if exchange is not None:
                exchange.cancel()
            self._answered_early(self._body, response)
        elif response.close_after or response.missing > 0 or self.draining:
            self._close()
        else:
            self._next_request()

    def _next_request(self) -> None:
        """Read the next request, which can be in the buffer."""
        self._phase = HEAD
        self._deadline = self.runtime.ticker.after(self.runtime.server.keep_alive)
        if not self._heads.block:
            self.forget_head()
        if self.draining:
            self._close()
        elif self._buffer:
            self._resume_reading()
            self._advance()

    def _close(self) -> None:
        """Close after the unsent data. With TLS the client is asked to close too (RFC 8446 6.1), and has a moment for
        its answer."""
        self._phase = LINGER
        self.transport.close()
        self._deadline = self.runtime.ticker.after(_CLOSE_SECONDS)

    def forget_head(self) -> None:
        """Drop the head of the last request, which ten thousand idle connections would keep."""
        self._heads.forget()
        self._fields = NO_FIELDS

    def must_close_after_refusal(self) -> bool:
        body = self._body
        if body is None:
            return False
        if body.is_chunked:
            return not self._discard_chunks(body)
        return body.remaining > HELD or body.wants_continue

    def _discard_chunks(self, body: BodyReader) -> bool:
        """Drop a chunked body that has arrived whole, so that the request behind it gets a response (RFC 9112
        9.3.2)."""
        try:
            _, self._buffer = body.feed(self._buffer)
        except Refusal:
            return False
        if body.is_complete:
            self._phase, self._body = RESPONDING, None
            self._resume_reading()
        return body.is_complete

    def _answered_early(self, body: BodyReader, response: ResponseWriter) -> None:
        """Read a short rest of the body, else shut down the write side and read on for a moment. A close with unread
        bytes resets the connection, which can destroy the response on its way (RFC 9112 9.6)."""
        if response.close_after or body.is_chunked or body.remaining > HELD:
            self._linger(body)
        else:
            self._phase = DISCARD
            self._deadline = self.runtime.ticker.after(_LINGER_SECONDS)
            self._resume_reading()
            self._advance()

    def _discard(self) -> bool:
        body = self._body
        assert body is not None
        _, self._buffer = body.feed(self._buffer)
        if body.is_complete:
            self._body = None
            self._next_request()
        return True

    def _linger(self, body: BodyReader) -> None:
        """Read until the client closes. An announced body can come whole, other data not without end."""
        self._phase, self._body = LINGER, None
        self._buffer = b""
        self._linger_bytes += _LINGER_BYTES if body.is_chunked else body.remaining
        self._deadline = self.runtime.ticker.after(_LINGER_SECONDS)
        self._resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _cancel_exchange(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def reset_on_close(self) -> None:
        reset_on_close(self.transport)

    # ---- WebSockets and event streams

    def open_tunnel(self, response: ResponseWriter, upstream: asyncio.Transport, early: bytes) -> None:
        """Join the two transports after a switch of protocols: their bytes bypass this object. `early` contains the
        bytes of the upstream behind its head."""
        self._phase = TUNNEL
        self._exchange = self._deadline = None
        self._heads.close()
        self.forget_head()
        sent, self._buffer = self._buffer, b""
        self._tunnel = Tunnel(self.loop, self._tunnel_ended)
        self._tunnel.join(self.transport, upstream, (sent, early))
        response.watch()
        if self.draining:  # The drain began during the handshake.
            self._tunnel.close(GOING_AWAY, "the gateway is stopping")

    def _tunnel_ended(self, tunnel: Tunnel) -> None:
        self._tunnel = None
        response, self._response = self._response, None
        if response is not None:
            response.tunnel_ended(*tunnel.passed)
        self.connection_lost(None)

    def access_revoked(self, response: ResponseWriter, refusal: Refusal) -> None:
        if self._tunnel is not None:
            code = TRY_AGAIN_LATER if refusal.status == 503 else POLICY_VIOLATION
            self._tunnel.close(code, refusal.code)
        elif self._exchange is not None and response is self._response:
            self._cancel_exchange()
            response.close_after = True
            response.end()

    # ---- time

    def tick(self, now: float) -> None:
        """Enforce the time-outs, four times a second."""
        if self._tunnel is not None:
            self._tunnel.tick(now)
            return
        if self._stall_watch.has_stalled(self.transport.get_write_buffer_size(), now):
            self.transport.abort()
        response = self._response
        if response is not None and self._uploads_too_slowly(now, response):
            self._refuse_body(response, _too_slow("the body came too slowly"))
        elif self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._time_out(response)

    def _uploads_too_slowly(self, now: float, response: ResponseWriter) -> bool:
        body = self._body
        if body is None or self._exchange is None:
            return False
        return body.is_too_slow(now, response.received, self.runtime.server)

    def _time_out(self, response: ResponseWriter | None) -> None:
        if self._phase == HEAD and self._heads.begun:
            self._refuse_unread(Refusal("request_timeout", "the head was not complete in time"))
        elif self._phase == BODY and response is not None and not response.done:
            self._refuse_body(response, _too_slow("the body paused too long"))
        elif self._phase == HEAD and has_unread(self.transport):
            self._deadline = self.runtime.ticker.after(0)
        elif self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._close()

    def shutdown(self) -> None:
        """Drain, called by uvicorn: close after the current response. An idle connection stays open for a whole PERIOD,
        because a request can be on its way, and its client would take it for lost."""
        self.draining = True
        if self._tunnel is not None:
            self._tunnel.close(GOING_AWAY, "the gateway is stopping")
        elif self._phase == HEAD and not self._heads.begun:
            self._deadline = self.runtime.ticker.after(PERIOD)


def _wants_continue(request: RequestHead) -> bool:
    expect = request.fields.expect
    return expect is not None and request.minor == 1 and expect.lower() == b"100-continue"


def _too_slow(reason: str) -> Refusal:
    return Refusal("request_timeout", reason, detail="The request body came too slowly")
