"""The requests for one target: waiting for a connection, and failed ones.

The queue is bounded, and no request waits longer than `connect_timeout`. The engine opens connections.

A queue that is closed by a configuration change still serves the waiting and late requests.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from gateway.errors import Refusal
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.fair_queue import LONGEST, FairQueue
from gateway.proxy.health import TargetHealth
from gateway.proxy.target import Target, UpstreamLimits
from gateway.samples import Sample
from gateway.ticker import PERIOD, Ticker

PATIENCE: Final = 0.5  # seconds; a request that has waited this long takes a connection from a client with too many
log: Final = logging.getLogger("gateway.proxy")

E = TypeVar("E", bound=UpstreamExchange)


class TargetLine(ABC, Generic[E]):
    """All requests to one target, with any engine."""

    def __init__(
        self,
        target: Target,
        limits: UpstreamLimits,
        health: TargetHealth,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.target = target
        self.host_line = target.host_line
        self.limits = limits
        self.health = health
        self.ticker = ticker
        self._loop = loop
        self._queue: FairQueue[E, Any] | None = None  # only while requests wait
        self._closed = False
        self._ticking = False
        self._tick_on()

    @property
    @abstractmethod
    def load(self) -> int:
        """The number of requests in progress or waiting for a connection."""

    @property
    @abstractmethod
    def open_connections(self) -> int:
        """The number of connections, busy and idle."""

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a connection."""
        return 0 if self._queue is None else len(self._queue)

    @property
    def idle_connections(self) -> int:
        """The number of idle connections."""
        return 0

    def samples(self, upstream: str) -> Iterator[Sample]:
        """Yield the metrics of the connections."""
        labels, idle = (upstream, str(self.target)), self.idle_connections
        yield Sample("gateway_upstream_connections", (*labels, "idle"), idle)
        yield Sample("gateway_upstream_connections", (*labels, "busy"), self.open_connections - idle)
        yield Sample("gateway_upstream_waiting", labels, self.waiting)

    @abstractmethod
    def submit(self, exchange: E, now: float, *, fresh: bool = False) -> None:
        """Send a request or queue it. `fresh`: a connection to this target has just failed during the request."""

    def withdraw(self, exchange: E) -> None:
        """Remove a waiting request, because its client has left."""
        if self._queue is not None:
            self._queue.remove(exchange)

    def failed(
        self, exchange: E, refusal: Refusal, *, may_repeat: bool, unsent: bool = False, counts: bool = True
    ) -> None:
        """Record that the target failed a request before any byte of a response, and send it again or refuse it.

        `may_repeat` and `unsent` say when it can be sent again, as in `ChoosingEngine.failed`. `counts`: the failure
        counts against the target.
        """
        if counts:
            self.note_failure(refusal.reason)
        exchange.engine.failed(exchange, refusal, may_repeat=may_repeat, unsent=unsent)

    def counts_timeout(self, exchange: E) -> bool:
        """Return whether a response time-out counts against the target. A shorter time-out of one route does not,
        because that route alone could eject the target for all others."""
        own, general = exchange.request.response_timeout, self.limits.response_timeout
        return own is None or (general is not None and own >= general)

    def answered(self, status: int) -> None:
        """Record a response. Only the statuses of `eject.statuses` are failures of the target."""
        if status in self.limits.failure_statuses:
            self.note_failure(f"it answered {status}")
        else:
            self.health.succeeded()

    def note_failure(self, reason: str) -> None:
        """Record a failure of the target, which can eject it."""
        if self.health.failed(self._loop.time()):
            log.warning("target %s is ejected: %s", self.target, reason)
            self._left_out()

    def close(self) -> None:
        """Keep no idle connections. Running and waiting requests continue."""
        self._closed = True

    # ---- for the engines

    @abstractmethod
    def _waits_for_a_place(self) -> bool:
        """Whether requests wait because of the connection limit, and not because of the target."""

    @abstractmethod
    def _left_out(self) -> None:
        """Handle the ejection of the target."""

    @abstractmethod
    def _busy(self) -> Iterable[tuple[Any, E]]:
        """Return the objects that hold connections, with their requests."""

    def _stand_in_line(self, exchange: E, now: float) -> bool:
        """Queue a request. Return False if it is refused instead."""
        if self._queue is None:
            self._queue = FairQueue(self.limits.max_connections, self._busy())
        exchange.deadline = now + self.limits.connect_timeout
        self._tick_on()
        refused = self._queue.add(exchange)
        if refused is not None:
            self._loop.call_soon(self._turn_away, refused)
        return refused is not exchange

    def _tick_on(self) -> None:
        if not self._ticking:
            self._ticking = True
            self.ticker.subscribe(self._tick)

    def _turn_away(self, exchange: E) -> None:
        reason = f"{self.target}: {LONGEST} requests are waiting"
        exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))

    def _tick(self, now: float) -> None:
        if self._queue is not None:
            self._tick_queue(self._queue, now)
        if self._closed and not self.load:  # running requests keep their time limits until then
            self._ticking = False
            self.ticker.unsubscribe(self._tick)

    def _tick_queue(self, queue: FairQueue[E, Any], now: float) -> None:
        """End waits at most one period late and never early, and free connections for requests that have waited
        long."""
        for exchange in queue.expired(now - PERIOD / 2):
            self._waited_too_long(exchange)
        if self._waits_for_a_place():
            patience = min(PATIENCE, self.limits.connect_timeout / 4)
            deadline = now + self.limits.connect_timeout - patience
            for exchange in queue.to_end(deadline, monotonic() - patience):
                exchange.end_for_others(f"{self.target}: its client holds more than half of the connections")
        if not queue:
            self._queue = None

    def _waited_too_long(self, exchange: E) -> None:
        if self._waits_for_a_place():  # the connection limit is not a failure of the target
            reason = f"{self.target}: all {self.limits.max_connections} connections are busy"
            exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))
        else:
            reason = f"{self.target} did not accept a connection in time"
            self.failed(exchange, Refusal("upstream_timeout", reason), may_repeat=True, unsent=True)
