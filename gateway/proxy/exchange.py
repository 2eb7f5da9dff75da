"""The part of an exchange that all engines share: one request to one target, and its progress."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from gateway.errors import Refusal
from gateway.proxy.forward import IDEMPOTENT, UpstreamRequest
from gateway.proxy.interfaces import Downstream, Exchange

if TYPE_CHECKING:
    from gateway.proxy.target_queue import TargetLine
    from gateway.proxy.upstream import ChoosingEngine


class UpstreamExchange(Exchange, ABC):
    """The part of Exchange that does not depend on the HTTP implementation.

    `pool` belongs to the last target. `deadline` is the loop's time at which the request gives up its place in the
    queue; None: no limit. `tries` counts the attempts, `received` the bytes of the request body so far. `paused`: the
    client is slower than the response. `lasts`: the response is an event stream.
    """

    pool: "TargetLine[Any] | None" = None
    deadline: float | None = None
    body_sent = False
    received = 0
    tries = 1
    paused = False
    lasts = False

    def __init__(self, engine: "ChoosingEngine[Any]", request: UpstreamRequest, downstream: Downstream) -> None:
        self.engine = engine
        self.request = request
        self.downstream = downstream
        self.body_ended = request.length == 0

    @property
    def repeatable(self) -> bool:
        """Whether the request can be sent again: it is idempotent, and nothing of its body was sent."""
        return self.request.method in IDEMPOTENT and not self.body_sent

    @property
    def waits_for_client(self) -> bool:
        """Whether the client alone determines the duration: it uploads, does not read, or listens to events."""
        return (not self.body_ended and not self.upload_is_stuck) or self.paused or self.lasts

    @property
    @abstractmethod
    def upload_is_stuck(self) -> bool:
        """Whether the upload waits for the target."""

    def becomes_stream(self) -> None:
        """Note that the response is an event stream."""
        self.lasts = True
        self.downstream.lasts()

    def end_for_others(self, reason: str) -> None:
        """End the exchange, because other clients wait for its connection."""
        self.cancel()
        if self.lasts:
            self.downstream.end()
        else:
            self.downstream.refuse(Refusal("overloaded", reason, retry_after=1))

    def write(self, data: bytes) -> None:
        """Pass on a piece of the body. Over the limit, end the exchange with 413."""
        self.received += len(data)
        if self.received > self.request.limit > 0:
            self.cancel()
            self.downstream.refuse(Refusal("body_too_large", f"more than {self.request.limit} bytes"))
        else:
            self.send(data)

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Pass on a piece of the body within the limit."""
