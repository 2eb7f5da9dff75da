"""The requests that httpx has under way to one target: as many at a time as connections are allowed, one on each."""

import asyncio
from collections.abc import Iterable

from gateway.proxy.dialling import Dialler
from gateway.proxy.health import TargetHealth
from gateway.proxy.httpx.attempt import Attempt
from gateway.proxy.httpx.exchange import HttpxExchange
from gateway.proxy.line import TargetLine
from gateway.proxy.target import Target, UpstreamLimits
from gateway.ticker import Ticker


class HttpxLine(TargetLine[HttpxExchange]):
    """One target. A request takes a place, makes a connection, and gives the place back when it is over."""

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
        """Requests that are under way, or wait for a place."""
        return len(self._attempts) + self.waiting

    @property
    def open_connections(self) -> int:
        """How many connections there are now; none is ever idle."""
        return sum(attempt.holds_connection for attempt in self._attempts)

    def submit(self, exchange: HttpxExchange, now: float, *, fresh: bool = False) -> None:
        """Send a request if there is a place, or let it wait in line for one. Every connection is fresh."""
        exchange.pool = self
        if len(self._attempts) < self.limits.max_connections:
            self._begin(exchange)
        else:
            self._stand_in_line(exchange, now)

    def give_back(self, attempt: Attempt) -> None:
        """Use a place that is free for the next request that waits."""
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
        """Nothing is idle here that would have to go."""

    def _tick(self, now: float) -> None:
        for attempt in tuple(self._attempts):
            attempt.tick(now)
        super()._tick(now)
