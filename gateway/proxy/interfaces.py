"""The two ends of one proxied request, as the core of the proxy speaks to them.

A face hands an engine an UpstreamRequest and a Downstream; it gets back an Exchange. Everything after that is calls in
both directions, none of which waits: the engine calls the Downstream with what the upstream answers, the face calls the
Exchange with what the caller still sends. Who cannot keep up says so (pause, resume) and the other side stops reading.

Neither side ever sees the other's transport, and neither speaks ASGI: that is what lets one engine serve both faces.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.samples import Sample

Field = tuple[bytes, bytes]


class HeadFields(list[Field]):
    """The fields of one response head. A face keeps in `block` the bytes that it made of them and of their status, so
    that a head that comes again is not put together again."""

    block: bytes | None = None


class Downstream(Protocol):
    """The caller's side: how an engine answers. Exactly one of `end`, `abort` and `refuse` closes an exchange.

    `forwarded_at` is set by the engine when the request is on its way to a target, in seconds of `time.monotonic`; once
    more when it is sent anew.
    """

    forwarded_at: float

    @property
    def client(self) -> str:
        """The address of the client, behind trusted proxies the one that they name; "" where there is none."""

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """An interim response (103) to pass on, where the caller's protocol can carry one."""

    def head(self, status: int, reason: bytes, fields: Sequence[Field], length: int | None) -> None:
        """The final response head. `fields` are end-to-end, Content-Length among them; `length` is that of the body
        in bytes as announced, None where only the end of the body tells it."""

    def lasts(self) -> None:
        """The response is an event stream: it may go on for hours, so whether the caller may still have it is looked at
        from time to time."""

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        """The upstream has switched protocols (101). Its transport is the downstream's now; `early` is what it has
        sent already behind its head."""

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

    @property
    def waiting(self) -> bool:
        """Whether it has no connection yet: it may take long, and its caller may leave before it has begun."""

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


class Engine(Protocol):
    """Something that speaks HTTP to the targets of one upstream."""

    def samples(self, now: float) -> Iterable[Sample]:
        """What there is to tell about the upstream; `now` is the loop's time."""

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        """Send a request; `now` is the loop's time. What comes of it reaches the downstream, also the refusal to send
        it at all, but never before `open` has returned."""

    def close(self) -> None:
        """Close what is idle now, and what is busy when it is done: no new requests are to come."""
