"""Write the response to one request, as an engine or a built-in endpoint produces it.

All data of one read of the upstream goes into one write: uvloop does not merge two writes, and the second costs as much
as parsing the whole response.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol

from gateway.errors import Caller, Refusal, RefusedCredential
from gateway.gate.admission import Admission, DirectResponse, RequestHead
from gateway.gate.forward_auth import Verdict
from gateway.observability.observer import Observer
from gateway.proxy.interfaces import Field
from gateway.proxy.response_head import status_line
from gateway.server.runtime import Runtime
from gateway.wire.problem import problem_body, problem_fields, problem_lines
from gateway.wire.websocket import handshake_answer

_CLIENT_LEFT: Final = 499  # for the log only: no response was sent
_ONE_WRITE: Final = 65536  # larger writes pass their pieces to the transport without joining them
_FEW: Final = 8  # more pieces than this are small, and cheaper joined than written one by one
_EMPTY: Final[Field] = (b"content-length", b"0")

# How the client learns the end of the body. Plain module constants, because the look-up of an Enum member costs as much
# as parsing a header field.
NOTHING: Final = 0  # the response has no body: HEAD, 204, 304
LENGTH: Final = 1
CHUNKED: Final = 2
CLOSE: Final = 3


class ConnectionSide(Protocol):
    """The connection that a response is written to."""

    runtime: Runtime
    loop: asyncio.AbstractEventLoop
    observer: Observer
    transport: asyncio.Transport
    draining: bool

    @property
    def date(self) -> bytes:
        """The Date of responses that the gateway makes itself."""

    def must_close_after_refusal(self) -> bool:
        """Whether a response that leaves the request body unread ends the connection."""

    def reset_on_close(self) -> None:
        """Have the next close send a reset instead of an end of file."""

    def response_ended(self, response: "ResponseWriter", *, aborted: bool) -> None:
        """A response is complete, or cut off if `aborted`."""

    def forget_head(self) -> None:
        """Drop the head of the current request."""

    def access_revoked(self, response: "ResponseWriter", refusal: Refusal) -> None:
        """End a WebSocket or an event stream, because the client has lost access."""

    def open_tunnel(self, response: "ResponseWriter", upstream: asyncio.Transport, early: bytes) -> None:
        """Join the two transports after a switch of protocols."""

    def pause_upload(self) -> None:
        """Stop reading the request body."""

    def resume_upload(self) -> None:
        """Read the request body again."""


class ResponseWriter:
    """Implements Downstream. It ends once: by `end`, `abort`, `refuse`, or because the client leaves."""

    __slots__ = (
        "_chunks",
        "_framing",
        "admission",
        "answered_at",
        "close_after",
        "code",
        "connection",
        "done",
        "forwarded_at",
        "missing",
        "received",
        "refused",
        "refused_credential",
        "request",
        "route",
        "sent",
        "started",
        "status",
        "watched",
    )

    def __init__(self, connection: ConnectionSide, request: RequestHead, started: float, close_after: bool) -> None:
        self.connection = connection
        self.request = request
        self.started = started
        self.forwarded_at = self.answered_at = 0.0
        self.close_after = close_after
        self.admission: Admission | None = None
        self.status = 0
        self.code = ""
        self.route = ""
        self.refused: Caller | None = None
        self.refused_credential: RefusedCredential | None = None
        self.sent = 0
        self.received = 0
        self.done = False
        self._chunks: list[bytes] = []
        self._framing = LENGTH
        self.missing = 0  # bytes of the announced body still to come
        self.watched = False

    # ---- Downstream

    @property
    def client(self) -> str:
        return self.request.client

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """Send an interim response, but never to an HTTP/1.0 client (RFC 9110 15.2)."""
        if self.request.minor and not self.done:
            self._chunks.append(_head_bytes(status, b"", fields) + b"\r\n")

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        if self.done:
            return
        self.status = status
        self.answered_at = monotonic()
        admission = self.admission
        head = serialized
        if admission is not None and admission.response_fields:
            fields = admission.response_head(fields)
            head = None
        if head is None:
            head = _head_bytes(status, reason, fields)
        if self.request.method == b"HEAD" or status == 304 or status == 204:
            self._framing = NOTHING
        elif length is not None:
            self.missing = length
        elif self.request.minor:
            self._framing = CHUNKED
            head += b"Transfer-Encoding: chunked\r\n"
        else:
            self._framing = CLOSE
            self.close_after = True
        if self.close_after or self.connection.draining:
            self.close_after = True
            head += b"Connection: close\r\n\r\n"
        else:
            head += b"\r\n" if self.request.minor else b"Connection: keep-alive\r\n\r\n"
        self._chunks.append(head)

    def on_event_stream(self) -> None:
        """Keep the event stream open until the caller's access ends."""
        assert self.admission is not None
        self.admission = self.admission.lasting()
        self.connection.forget_head()
        self.watch()

    def watch(self) -> None:
        """End this response when the caller's access ends."""
        self.watched = True
        self.connection.runtime.watch.add(self)

    def revoke(self, refusal: Refusal) -> None:
        """End the response, because the caller's access has ended: close a WebSocket, or end an event stream."""
        self.code = refusal.code
        self.connection.access_revoked(self, refusal)

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        """Pass on the upstream's 101, with the fields of the client connection added (RFC 6455 4.2.2)."""
        self.status = 101
        self.answered_at = monotonic()
        assert self.admission is not None
        fields = self.admission.response_head(handshake_answer(fields, self.request.fields.kept))
        self.admission = self.admission.lasting()
        lines = _head_bytes(101, b"", fields)
        self._chunks.append(lines + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.flush()
        self.connection.open_tunnel(self, upstream, early)

    def body(self, data: bytes) -> None:
        framing = self._framing
        if framing == NOTHING or self.done or not data:
            return
        self.sent += len(data)
        if framing == CHUNKED:
            self._chunks += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self.missing -= len(data)
            self._chunks.append(data)

    def end(self, trailers: Sequence[Field] = ()) -> None:
        if self.done:
            return
        if self._framing == CHUNKED:
            lines = b"".join([b"%b: %b\r\n" % field for field in trailers])
            self._chunks.append(b"0\r\n%b\r\n" % lines)
        self.flush()
        self._over()

    def abort(self, reason: str) -> None:
        """End the response visibly incomplete, with a reset where a close would look like its end (RFC 9112 8)."""
        if self.done:
            return
        self.flush()
        self.code = "upstream_aborted"
        if self._framing in (CLOSE, NOTHING):
            self.connection.reset_on_close()
        self.connection.observer.failed(self.request.request_id, reason)
        self._over(aborted=True)

    def refuse(self, refusal: Refusal) -> None:
        if self.done:
            return
        if self.status:
            self.abort(refusal.reason)
            return
        if refusal.route is None and self.admission is not None:  # a failed upstream
            refusal.route = self.admission.route.name
        self.code = refusal.code
        self.route = refusal.route or ""
        self.refused, self.refused_credential = refusal.caller, refusal.credential
        connection = self.connection
        runtime = connection.runtime
        if refusal.route not in runtime.refusals.full:
            runtime.refusals.note(refusal, self.request)
        if connection.must_close_after_refusal():
            self.close_after = True
        page = runtime.page_of(refusal, self.request)
        if page is None and (self.admission is None or not self.admission.response_fields):
            self._write_problem(refusal)
            return
        request_id = self.request.request_id
        fields, body = page or (problem_fields(refusal, request_id), problem_body(refusal, request_id))
        fields.append((b"date", connection.date))
        fields.append((b"content-length", b"%d" % len(body)))
        self.head(refusal.status, b"", fields, len(body))
        self.body(body)
        self.end()

    def _write_problem(self, refusal: Refusal) -> None:
        """Write the response to most refusals without a list of its fields."""
        request_id, status = self.request.request_id, refusal.status
        body = problem_body(refusal, request_id)
        length = len(body)
        head = b"%b%bdate: %b\r\ncontent-length: %d\r\n" % (
            status_line(status, b""),
            problem_lines(refusal, request_id),
            self.connection.date,
            length,
        )
        self.head(status, b"", (), length, head)
        self.body(body)
        self.end()

    def write_direct(self, answered: DirectResponse) -> None:
        """Write a response of the gate itself."""
        self.route = answered.route.name
        if self.connection.must_close_after_refusal():
            self.close_after = True
        fields = (*answered.fields, (b"date", self.connection.date))
        self.head(answered.status, b"", fields if answered.status == 204 else (*fields, _EMPTY), 0)
        self.end()

    def write_verdict(self, verdict: Verdict) -> None:
        """Answer a forward-authorization request."""
        self.admission = verdict.admission
        if isinstance(verdict.outcome, Refusal):
            self.refuse(verdict.outcome)
        else:
            self.write_direct(verdict.outcome)

    def flush(self) -> None:
        chunks = self._chunks
        if not chunks:
            return
        self._chunks = []
        transport = self.connection.transport
        if len(chunks) == 1:
            transport.write(chunks[0])
        elif self.sent <= _ONE_WRITE or len(chunks) > _FEW:
            transport.write(b"".join(chunks))
        else:
            transport.writelines(chunks)

    def pause_upload(self) -> None:
        self.connection.pause_upload()

    def resume_upload(self) -> None:
        self.connection.resume_upload()

    # ---- the connection's side

    def send_continue(self) -> None:
        """Send 100 Continue, for which the client waits before it sends the body (RFC 9110 10.1.1)."""
        if not self.done and not self.status:
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def tunnel_ended(self, received: int, sent: int) -> None:
        """Log the closed WebSocket."""
        self.received, self.sent = received, sent
        self._observe()

    def client_left(self) -> None:
        """Log a response that is incomplete because the client left."""
        if not self.done:
            self.status = self.status or _CLIENT_LEFT
            self._observe()

    def _over(self, *, aborted: bool = False) -> None:
        self._observe()
        self.connection.response_ended(self, aborted=aborted)

    def _observe(self) -> None:
        self.done = True
        if self.watched:
            self.connection.runtime.watch.remove(self)
        self.connection.observer.completed(self)


def _head_bytes(status: int, reason: bytes, fields: Sequence[Field]) -> bytes:
    """Serialize status line and fields, without the empty line."""
    pieces = [status_line(status, reason)]
    for name, value in fields:
        pieces += (name, b": ", value, b"\r\n")
    return b"".join(pieces)
