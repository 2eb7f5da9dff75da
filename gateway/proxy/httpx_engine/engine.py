"""The httpx engine of one upstream.

Each request has its own connection, so the limit of connections is the limit of requests in progress to a target.
"""

import asyncio
import ssl
from collections.abc import Iterable, Iterator

from gateway.proxy.dialer import Dialler
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.health import TargetHealth
from gateway.proxy.httpx_engine.exchange import Attempt, HttpxExchange
from gateway.proxy.interfaces import Downstream, Exchange
from gateway.proxy.native.pool import NativeEngine
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.target_queue import TargetLine
from gateway.proxy.upstream import ChoosingEngine
from gateway.samples import Sample
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


class HttpxLine(TargetLine[HttpxExchange]):
    """One target. A request takes a place, opens a connection, and returns the place at its end."""

    def __init__(
        self,
        target: Target,
        limits: UpstreamLimits,
        health: TargetHealth,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.dialler = Dialler(target, loop)
        self._attempts: set[Attempt] = set()
        super().__init__(target, limits, health, loop=loop, ticker=ticker)

    @property
    def load(self) -> int:
        """The number of requests in progress or waiting for a place."""
        return len(self._attempts) + self.waiting

    @property
    def open_connections(self) -> int:
        """The number of connections, none of which is ever idle."""
        return sum(attempt.holds_connection for attempt in self._attempts)

    def submit(self, exchange: HttpxExchange, now: float, *, fresh: bool = False) -> None:
        """Send a request if there is a place, or queue it. Every connection is fresh."""
        exchange.pool = self
        if len(self._attempts) < self.limits.max_connections:
            self._begin(exchange)
        else:
            self._stand_in_line(exchange, now)

    def give_back(self, attempt: Attempt) -> None:
        """Use a free place for the next waiting request."""
        self._attempts.discard(attempt)
        queue = self._queue
        if queue is not None:
            queue.release(attempt)
            if queue:
                self._begin(queue.next())

    def _begin(self, exchange: HttpxExchange) -> None:
        self._tick_on()
        attempt = Attempt(exchange, self, self._loop)
        self._attempts.add(attempt)
        if self._queue is not None:
            self._queue.hold(attempt, exchange)

    def _busy(self) -> Iterable[tuple[Attempt, HttpxExchange]]:
        return [(attempt, attempt.exchange) for attempt in self._attempts]

    def _waits_for_a_place(self) -> bool:
        return True

    def _left_out(self) -> None:
        """Do nothing, because there are no idle connections."""

    def _tick(self, now: float) -> None:
        for attempt in tuple(self._attempts):
            attempt.tick(now)
        super()._tick(now)


class HttpxEngine(ChoosingEngine[HttpxExchange]):
    """Implements Engine with httpx's transport.

    A native engine handles WebSocket handshakes, for which both engines use the same relay. It shares the health of the
    targets.
    """

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(upstream, loop=loop, ticker=ticker, tls=tls)
        self._upstream = upstream
        self._tls = tls
        self._native: NativeEngine | None = None

    def _pool(self, target: Target, limits: UpstreamLimits, health: TargetHealth) -> HttpxLine:
        return HttpxLine(target, limits, health, loop=self._loop, ticker=self._ticker)

    def _exchange(self, request: UpstreamRequest, downstream: Downstream) -> HttpxExchange:
        return HttpxExchange(self, request, downstream)

    @property
    def open_connections(self) -> int:
        """The number of connections, including those of handshakes."""
        native = 0 if self._native is None else self._native.open_connections
        return super().open_connections + native

    def traffic(self) -> Iterator[Sample]:
        """Yield the metrics of connections and retries, including those of handshakes."""
        yield from super().traffic()
        if self._native is not None:
            yield from self._native.traffic()

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        """Send a request to one of the targets."""
        if request.handshake is not None:
            return self._for_handshakes().open(request, downstream, now)
        return super().open(request, downstream, now)

    def close(self) -> None:
        """Keep no idle connections. Running requests continue."""
        super().close()
        if self._native is not None:
            self._native.close()

    def _for_handshakes(self) -> NativeEngine:
        if self._native is None:
            self._native = NativeEngine(
                self._upstream, loop=self._loop, ticker=self._ticker, tls=self._tls, beside=self
            )
        return self._native
