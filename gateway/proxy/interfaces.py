"""The interfaces between a face and an engine for one proxied request.

A face gives an engine an UpstreamRequest and a Downstream, and gets an Exchange. All further communication is calls in
both directions that never wait: the engine calls the Downstream with the response, and the face calls the Exchange with
the rest of the request. A slow side calls pause and resume, and the other side stops reading in between.

Neither side sees the transport of the other, and neither uses ASGI. Therefore one engine serves both faces.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.samples import Sample

Field = tuple[bytes, bytes]


class Downstream(Protocol):
    """The client's side, which receives the response. Exactly one of `end`, `abort` and `refuse` ends an exchange.

    The engine sets `forwarded_at` when it sends the request to a target, in seconds of `time.monotonic`, and again for
    each retry.
    """

    forwarded_at: float

    @property
    def client(self) -> str:
        """The address of the client, as trusted proxies state it; "" where there is none."""

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """Pass on an interim response (103), if the client's protocol has them."""

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        """Pass on the final response head.

        `fields` are end-to-end fields, including Content-Length. `length` is the announced length of the body in bytes,
        None if only the end of the body determines it. `serialized` is the status line and `fields` as sent in
        HTTP/1.1, without the empty line, if the engine has them.
        """

    def on_event_stream(self) -> None:
        """Note that the response is an event stream. It can last for hours, so the caller's access is checked from time
        to time."""

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        """Take over the connection after a 101. `early` contains the bytes after the head."""

    def body(self, data: bytes) -> None:
        """Pass on bytes of the body. The downstream pauses the exchange when it holds more than it can send."""

    def end(self, trailers: Sequence[Field] = ()) -> None:
        """Complete the response."""

    def abort(self, reason: str) -> None:
        """End an incomplete response, so that the client cannot take it for complete. The upstream failed after its
        head was passed on."""

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request, because the upstream failed or was not asked. No head was passed on."""

    def flush(self) -> None:
        """Write the data of one read from the upstream, all of which has been passed on."""

    def pause_upload(self) -> None:
        """Stop reading the request body, because the upstream cannot take more."""

    def resume_upload(self) -> None:
        """Continue to read the request body."""


class Exchange(Protocol):
    """The upstream's side, with which a face controls a request in progress."""

    @property
    def waiting(self) -> bool:
        """Whether the request has no connection yet. The wait can be long, and the client can leave during it."""

    def write(self, data: bytes) -> None:
        """Pass on a piece of the request body."""

    def end_body(self) -> None:
        """Complete the request body."""

    def cancel(self) -> None:
        """End the upstream request at once, because the client has left. The engine makes no further calls."""

    def pause(self) -> None:
        """Stop reading the response, because the client is slower."""

    def resume(self) -> None:
        """Continue to read the response."""


class Engine(Protocol):
    """An HTTP client for the targets of one upstream."""

    @property
    def open_connections(self) -> int:
        """How many connections there are now, busy and idle."""

    def samples(self, now: float) -> Iterable[Sample]:
        """Yield the metrics of the upstream. `now` is the loop's time."""

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        """Send a request. `now` is the loop's time. All results reach the downstream, including a refusal to send, and
        never before `open` has returned."""

    def close(self) -> None:
        """Close idle connections now, and busy ones when their requests end. No requests follow."""
