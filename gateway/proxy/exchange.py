"""The two ends of one proxied request, as the core of the proxy speaks to them.

A face hands an engine an UpstreamRequest and a Downstream; it gets back an Exchange. Everything after that is calls in
both directions, none of which waits: the engine calls the Downstream with what the upstream answers, the face calls the
Exchange with what the caller still sends. Who cannot keep up says so (pause, resume) and the other side stops reading.

Neither side ever sees the other's transport, and neither speaks ASGI: that is what lets one engine serve both faces.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.errors import Refusal

Field = tuple[bytes, bytes]

# RFC 9110 9.2.2: a request of one of these may be sent twice with the effect of once.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Downstream(Protocol):
    """The caller's side: how an engine answers. Exactly one of `end`, `abort` and `refuse` closes an exchange."""

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """An interim response (103) to pass on, where the caller's protocol can carry one."""

    def head(self, status: int, reason: bytes, fields: Sequence[Field], length: int | None) -> None:
        """The final response head. `fields` are end-to-end, Content-Length among them; `length` is that of the body
        in bytes as announced, None where only the end of the body tells it."""

    def body(self, data: bytes) -> None:
        """Bytes of the body. The downstream pauses the exchange when it holds more than it can send on."""

    def end(self, trailers: Sequence[Field] = ()) -> None:
        """The response is complete."""

    def abort(self, reason: str) -> None:
        """The upstream failed after its head was passed on: end it so that the caller cannot take it for complete."""

    def refuse(self, refusal: Refusal) -> None:
        """The upstream failed, or refused to be asked, before any head was passed on."""

    def flush(self) -> None:
        """All that one read of the upstream brought has been handed over: now is the time to write it."""

    def pause_upload(self) -> None:
        """The upstream cannot take more of the request body: stop reading it."""

    def resume_upload(self) -> None:
        """The upstream takes the request body again."""


class Exchange(Protocol):
    """The upstream's side: what a face may do with a request that is under way."""

    def write(self, data: bytes) -> None:
        """Send on a piece of the request body."""

    def end_body(self) -> None:
        """The request body is complete."""

    def cancel(self) -> None:
        """The caller has left: end the upstream request at once. Nothing more is called on the downstream."""

    def pause(self) -> None:
        """The caller cannot keep up: stop reading the response."""

    def resume(self) -> None:
        """The caller takes the response again."""


class UpstreamRequest:
    """A request as it is sent upstream, all but the Host line that names the target.

    `start` is the request line, `fields` the header block without Host, the framing included; `length` the body's
    length in bytes, None for a chunked body, 0 for none. `limit` is the most bytes a body may have, 0 for no limit.
    `response_timeout` is in seconds or None. `preserved_host` is the caller's Host where the upstream is to see it.
    """

    __slots__ = ("fields", "length", "limit", "method", "preserved_host", "response_timeout", "start")

    def __init__(self, method: bytes, start: bytes, fields: bytes, *, length: int | None) -> None:
        self.method = method
        self.start = start
        self.fields = fields
        self.length = length
        self.limit = 0
        self.response_timeout: float | None = None
        self.preserved_host: bytes | None = None


class Engine(Protocol):
    """Something that speaks HTTP to the targets of one upstream."""

    @property
    def open_connections(self) -> int:
        """How many connections there are now, busy and idle."""

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        """Send a request; `now` is the loop's time. What comes of it reaches the downstream, also the refusal to send
        it at all, but never before `open` has returned."""

    async def close(self) -> None:
        """Close every connection."""
