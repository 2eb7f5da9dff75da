"""One request to one target and its progress, the same for all engines.

The interfaces of its surroundings are here too. An engine consists of its own `TargetPool` and `Connection`.

    Upstream ── chooses a pool ──▶ TargetPool ── has a free connection ──▶ Connection
        ▲                                                                      │
        └──────────── failed, and can be sent again ───────────────────────────┘
"""

from collections.abc import Iterator
from typing import Protocol

from gateway.errors import Refusal
from gateway.proxy.forward import IDEMPOTENT, UpstreamRequest
from gateway.proxy.health import TargetHealth
from gateway.proxy.interfaces import Downstream
from gateway.proxy.target import Target
from gateway.samples import Sample


class Connection(Protocol):
    """A connection to a target, while it serves an exchange."""

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the target takes no more of the request body for now."""

    def send_body(self, data: bytes) -> None:
        """Send a piece of the request body."""

    def finish_request(self) -> None:
        """Send the end of the request body."""

    def drop(self) -> None:
        """Close the connection, because the client has left. Its exchange gets no further call."""

    def pause_response(self) -> None:
        """Stop reading the response. The target is not to blame for the silence."""

    def resume_response(self) -> None:
        """Continue to read the response."""


class TargetPool(Protocol):
    """The connections of one engine to one target."""

    @property
    def target(self) -> Target: ...

    @property
    def health(self) -> TargetHealth: ...

    @property
    def load(self) -> int:
        """The number of requests in progress or waiting for a connection."""

    @property
    def open_connections(self) -> int:
        """The number of connections, busy and idle."""

    @property
    def submitted(self) -> int:
        """The number of requests given to the target so far, with retries."""

    def submit(self, exchange: "UpstreamExchange", now: float, *, fresh: bool = False) -> None:
        """Send a request or queue it. `fresh`: a connection to this target has just failed during the request."""

    def withdraw(self, exchange: "UpstreamExchange") -> None:
        """Remove a request without a connection, because its client has left."""

    def samples(self, upstream: str) -> Iterator[Sample]:
        """Yield the metrics of the connections."""

    def close(self) -> None:
        """Keep no idle connections. Running and waiting requests continue."""


class Retrying(Protocol):
    """The upstream, as far as an exchange depends on it."""

    def failed(self, exchange: "UpstreamExchange", refusal: Refusal, *, may_repeat: bool, unsent: bool = False) -> None:
        """Retry an exchange that failed before any byte of a response, or refuse it.

        `may_repeat`: the target can have seen the request, and an idempotent one can be sent again. `unsent`: nothing
        of it was written, so any request can.
        """


class UpstreamExchange:
    """Implements Exchange.

    `pool` belongs to the last target. `connection` is None while the request waits for one, and after its end.
    `deadline` is the loop's time at which the request gives up its place in the queue; None: no limit. `tries` counts
    the attempts, `received` the bytes of the request body so far. `early` holds the part of the body that came before
    the connection: at most one read from the client, because the upload is paused until then. `paused`: the client is
    slower than the response. `streams`: the response is an event stream.
    """

    deadline: float | None = None
    early: list[bytes] | None = None
    body_sent = False
    received = 0
    tries = 1
    paused = False
    streams = False

    def __init__(self, upstream: Retrying, request: UpstreamRequest, downstream: Downstream) -> None:
        self.upstream = upstream
        self.request = request
        self.downstream = downstream
        self.pool: TargetPool | None = None
        self.connection: Connection | None = None
        self.body_ended = request.length == 0

    @property
    def waiting(self) -> bool:
        return self.connection is None

    @property
    def repeatable(self) -> bool:
        """Whether the request can be sent again: it is idempotent, and nothing of its body was sent."""
        return self.request.method in IDEMPOTENT and not self.body_sent

    @property
    def waits_for_client(self) -> bool:
        """Whether the client alone determines the duration: it uploads, does not read, or listens to events."""
        connection = self.connection
        if connection is None:  # it waits for the target
            return False
        return (not self.body_ended and not connection.upload_is_stuck) or self.paused or self.streams

    # ---- for the face

    def write(self, data: bytes) -> None:
        """Pass on a piece of the body. Over the limit, end the exchange with 413."""
        self.received += len(data)
        if self.received > self.request.limit > 0:
            self.cancel()
            self.downstream.refuse(Refusal("body_too_large", f"more than {self.request.limit} bytes"))
        elif self.connection is not None:
            self.connection.send_body(data)
        else:
            self._keep(data)

    def end_body(self) -> None:
        self.body_ended = True
        if self.connection is not None:
            self.connection.finish_request()

    def cancel(self) -> None:
        if self.connection is not None:
            self.connection.drop()
        elif self.pool is not None:
            self.pool.withdraw(self)

    def pause(self) -> None:
        self.paused = True
        if self.connection is not None:
            self.connection.pause_response()

    def resume(self) -> None:
        self.paused = False
        if self.connection is not None:
            self.connection.resume_response()

    # ---- for the engine

    def send_early(self, connection: Connection) -> None:
        """Send the part of the body that came before the connection."""
        pieces, self.early = self.early or (), None
        for piece in pieces:
            connection.send_body(piece)
        if not self.body_ended and not connection.upload_is_stuck:
            self.downstream.resume_upload()

    def becomes_stream(self) -> None:
        """Note that the response is an event stream."""
        self.streams = True
        self.downstream.on_event_stream()

    def end_for_others(self, reason: str) -> None:
        """End the exchange, because other clients wait for its connection."""
        self.cancel()
        if self.streams:
            self.downstream.end()
        else:
            self.downstream.refuse(Refusal("overloaded", reason, retry_after=1))

    def _keep(self, data: bytes) -> None:
        if self.early is None:
            self.early = []
            self.downstream.pause_upload()
        self.early.append(data)
