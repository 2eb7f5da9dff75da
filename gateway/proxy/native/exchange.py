"""One request under way to one target: what the face holds, and where the request stands."""

from typing import TYPE_CHECKING

from gateway.proxy.upstream_exchange import UpstreamExchange

if TYPE_CHECKING:
    from gateway.proxy.native.connection import UpstreamConnection


class NativeExchange(UpstreamExchange):
    """Implements Exchange. It waits in the pool of a target until it has a connection, and ends with it.

    `early` is what came of the body before there was a connection: at most what one read of the caller brings, because
    the upload is paused until then.
    """

    connection: "UpstreamConnection | None" = None
    early: list[bytes] | None = None

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the upload waits for the target."""
        return self.connection is not None and self.connection.upload_is_stuck

    @property
    def waiting(self) -> bool:
        """Whether it has no connection yet."""
        return self.connection is None

    def send(self, data: bytes) -> None:
        """Send on a piece of the body, or keep it until there is a connection."""
        if self.connection is not None:
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
