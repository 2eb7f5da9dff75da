"""One request under way to one target: what the face holds, and where the request stands."""

from typing import TYPE_CHECKING

from gateway.errors import Refusal
from gateway.proxy.exchange import Downstream
from gateway.proxy.upstream_request import IDEMPOTENT, UpstreamRequest

if TYPE_CHECKING:
    from gateway.proxy.native.connection import UpstreamConnection
    from gateway.proxy.native.engine import NativeEngine
    from gateway.proxy.native.pool import TargetPool


class NativeExchange:
    """Implements Exchange. It waits in the pool of a target until it has a connection, and ends with it.

    `deadline` is the loop's time beyond which a place in the line is given up; None: no limit. `early` is what came of
    the body before there was a connection: at most what one read of the caller brings, because the upload is paused
    until then. `tries` counts how often it was sent.
    """

    pool: "TargetPool | None" = None
    connection: "UpstreamConnection | None" = None
    deadline: float | None = None
    early: list[bytes] | None = None
    body_sent = False
    received = 0
    tries = 1
    paused = False

    def __init__(self, engine: "NativeEngine", request: UpstreamRequest, downstream: Downstream) -> None:
        self.engine = engine
        self.request = request
        self.downstream = downstream
        self.body_ended = request.length == 0

    @property
    def waiting(self) -> bool:
        """Whether it has no connection yet."""
        return self.connection is None

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time: idempotent, and nothing of its body has left the gateway."""
        return self.request.method in IDEMPOTENT and not self.body_sent

    def write(self, data: bytes) -> None:
        """Send on a piece of the body; over the limit the exchange ends with 413."""
        self.received += len(data)
        if self.received > self.request.limit > 0:
            self.cancel()
            self.downstream.refuse(Refusal("body_too_large", f"more than {self.request.limit} bytes"))
        elif self.connection is not None:
            self.connection.send_body(data)
        else:
            self._keep(data)

    def end_body(self) -> None:
        """The body is complete: from now on the upstream owes an answer."""
        self.body_ended = True
        if self.connection is not None:
            self.connection.finish_request()

    def cancel(self) -> None:
        """The caller has left. The connection has a request under way that nobody waits for: it cannot be reused."""
        if self.connection is not None:
            self.connection.drop()
        elif self.pool is not None:
            self.pool.withdraw(self)

    def pause(self) -> None:
        """The caller cannot keep up."""
        self.paused = True
        if self.connection is not None:
            self.connection.pause_response()

    def resume(self) -> None:
        """The caller takes the response again."""
        self.paused = False
        if self.connection is not None:
            self.connection.resume_response()

    def _keep(self, data: bytes) -> None:
        if self.early is None:
            self.early = []
            self.downstream.pause_upload()
        self.early.append(data)
