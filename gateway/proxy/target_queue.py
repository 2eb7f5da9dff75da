"""The requests for one target: waiting for a connection, and failed ones.

The queue is bounded, and no request waits longer than `connect_timeout`. The pool opens connections.

A queue that is closed by a configuration change still serves the waiting and late requests.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Final, Protocol

from gateway.errors import Refusal
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.fair_queue import LONGEST, FairRequestQueue
from gateway.proxy.health import TargetHealth
from gateway.proxy.target import Target, UpstreamLimits
from gateway.samples import Sample
from gateway.ticker import PERIOD, Ticker

# Seconds after which a waiting request takes a connection from a client with too many.
FAIRNESS_DELAY: Final = 0.5
log: Final = logging.getLogger("gateway.proxy")


class QueuedPool(Protocol):
    """The pool of connections that the requests wait for."""

    @property
    def load(self) -> int:
        """The number of requests in progress or waiting for a connection."""

    @property
    def open_connections(self) -> int:
        """The number of connections, busy and idle."""

    @property
    def idle_connections(self) -> int:
        """The number of idle connections."""

    @property
    def is_full(self) -> bool:
        """Whether requests wait because of the connection limit, and not because of the target."""

    def busy(self) -> Iterable[tuple[Any, UpstreamExchange]]:
        """Return the objects that hold connections, with their requests."""

    def drop_idle(self) -> None:
        """Close the idle connections, because the target is ejected."""

    def tick(self, now: float) -> None:
        """Enforce the time limits of running requests."""


class TargetQueue:
    """All requests to one target, with any engine. `fair` holds those that wait, and is None while none waits."""

    def __init__(
        self,
        target: Target,
        limits: UpstreamLimits,
        health: TargetHealth,
        *,
        pool: QueuedPool,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.target = target
        self.host_line = target.host_line
        self.limits = limits
        self.health = health
        self.ticker = ticker
        self.fair: FairRequestQueue[UpstreamExchange, Any] | None = None
        self.closed = False
        self._pool = pool
        self._loop = loop
        self._ticking = False
        self.start_ticking()

    def __len__(self) -> int:
        return 0 if self.fair is None else len(self.fair)

    def samples(self, upstream: str) -> Iterator[Sample]:
        labels, idle = (upstream, str(self.target)), self._pool.idle_connections
        yield Sample("gateway_upstream_connections", (*labels, "idle"), idle)
        yield Sample("gateway_upstream_connections", (*labels, "busy"), self._pool.open_connections - idle)
        yield Sample("gateway_upstream_waiting", labels, len(self))

    # ---- requests that wait

    def add(self, exchange: UpstreamExchange, now: float) -> bool:
        """Queue a request. Return False if it is refused instead."""
        if self.fair is None:
            self.fair = FairRequestQueue(self.limits.max_connections, self._pool.busy())
        exchange.deadline = now + self.limits.connect_timeout
        self.start_ticking()
        refused = self.fair.add(exchange)
        if refused is not None:
            self._loop.call_soon(self._turn_away, refused)
        return refused is not exchange

    def remove(self, exchange: UpstreamExchange) -> None:
        """Remove a waiting request, because its client has left."""
        if self.fair is not None:
            self.fair.remove(exchange)

    def close(self) -> None:
        """Stop the timer when no request runs or waits."""
        self.closed = True

    # ---- outcomes

    def failed(
        self,
        exchange: UpstreamExchange,
        refusal: Refusal,
        *,
        may_repeat: bool,
        unsent: bool = False,
        counts: bool = True,
    ) -> None:
        """Record that the target failed a request before any byte of a response, and send it again or refuse it.

        `may_repeat` and `unsent` say when it can be sent again, as in `Retrying.failed`. `counts`: the failure counts
        against the target.
        """
        if counts:
            self.note_failure(refusal.reason)
        exchange.upstream.failed(exchange, refusal, may_repeat=may_repeat, unsent=unsent)

    def counts_timeout(self, exchange: UpstreamExchange) -> bool:
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
        """Record a failure of the target, which can eject it. The last usable target is never ejected, so the log has
        its failures too."""
        if self.health.failed(self._loop.time()):
            log.warning("target %s is ejected: %s", self.target, reason)
            self._pool.drop_idle()
        else:
            log.warning("target %s fails: %s", self.target, reason.removeprefix(f"{self.target}: "))

    # ---- time

    def start_ticking(self) -> None:
        """Enforce time limits from now on, also after `close` while requests run."""
        if not self._ticking:
            self._ticking = True
            self.ticker.subscribe(self._tick)

    def _tick(self, now: float) -> None:
        """End waits at most one period late and never early, and free connections for requests that have waited
        long."""
        if self.fair is not None:
            self._tick_waiting(self.fair, now)
        self._pool.tick(now)
        if self.closed and not self._pool.load:
            self._ticking = False
            self.ticker.unsubscribe(self._tick)

    def _tick_waiting(self, fair: FairRequestQueue[UpstreamExchange, Any], now: float) -> None:
        for exchange in fair.expired(now - PERIOD / 2):
            self._waited_too_long(exchange)
        if self._pool.is_full:
            delay = min(FAIRNESS_DELAY, self.limits.connect_timeout / 4)
            deadline = now + self.limits.connect_timeout - delay
            for exchange in fair.to_end(deadline, monotonic() - delay):
                exchange.end_for_others(f"{self.target}: its client holds more than half of the connections")
        if not fair:
            self.fair = None

    def _waited_too_long(self, exchange: UpstreamExchange) -> None:
        if self._pool.is_full:  # the connection limit is not a failure of the target
            reason = f"{self.target}: all {self.limits.max_connections} connections are busy"
            exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))
        else:
            reason = f"{self.target} did not accept a connection in time"
            self.failed(exchange, Refusal("upstream_timeout", reason), may_repeat=True, unsent=True)

    def _turn_away(self, exchange: UpstreamExchange) -> None:
        reason = f"{self.target}: {LONGEST} requests are waiting"
        exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))
