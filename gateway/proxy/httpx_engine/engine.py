"""The httpx engine of one upstream.

Each request has its own connection, so the limit of connections is the limit of requests in progress to a target.
"""

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Sequence

from gateway.proxy.exchange import TargetPool, UpstreamExchange
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.health import TargetHealth
from gateway.proxy.httpx_engine.connection import HttpxConnection
from gateway.proxy.interfaces import Downstream, Exchange
from gateway.proxy.native.pool import NativePool
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.target_connector import TargetConnector
from gateway.proxy.target_queue import TargetQueue
from gateway.proxy.upstream import Upstream
from gateway.samples import Sample
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


class HttpxPool:
    """Implements TargetPool for exchanges, and QueuedPool for the queue.

    A connection serves one request, so none is ever idle.
    """

    idle_connections = 0

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
        self.health = health
        self._limits = limits
        self._loop = loop
        self._connector = TargetConnector(target, loop)
        self._connections: dict[UpstreamExchange, HttpxConnection] = {}
        self._queue = TargetQueue(target, limits, health, pool=self, loop=loop, ticker=ticker)

    @property
    def load(self) -> int:
        return len(self._connections) + len(self._queue)

    @property
    def open_connections(self) -> int:
        return sum(connection.is_open for connection in self._connections.values())

    @property
    def is_full(self) -> bool:
        return len(self._connections) >= self._limits.max_connections

    def samples(self, upstream: str) -> Iterator[Sample]:
        return self._queue.samples(upstream)

    def submit(self, exchange: UpstreamExchange, now: float, *, fresh: bool = False) -> None:
        exchange.pool = self
        if self.is_full:
            self._queue.add(exchange, now)
        else:
            self._begin(exchange)

    def withdraw(self, exchange: UpstreamExchange) -> None:
        connection = self._connections.get(exchange)
        if connection is None:
            self._queue.remove(exchange)
        else:
            connection.drop()

    def close(self) -> None:
        self._queue.close()

    # ---- for the queue

    def busy(self) -> Iterable[tuple[HttpxConnection, UpstreamExchange]]:
        return [(connection, exchange) for exchange, connection in self._connections.items()]

    def drop_idle(self) -> None:
        """Do nothing, because there are no idle connections."""

    def tick(self, now: float) -> None:
        for connection in tuple(self._connections.values()):
            connection.tick(now)

    def _begin(self, exchange: UpstreamExchange) -> None:
        self._queue.start_ticking()
        connection = HttpxConnection(
            exchange, self._queue, on_end=self._connection_ended, connector=self._connector, loop=self._loop
        )
        self._connections[exchange] = connection
        if self._queue.fair is not None:
            self._queue.fair.hold(connection, exchange)

    def _connection_ended(self, connection: HttpxConnection) -> None:
        del self._connections[connection.exchange]
        waiting = self._queue.fair
        if waiting is not None:
            waiting.release(connection)
            if waiting:
                self._begin(waiting.next())


class HttpxEngine:
    """Implements Engine with httpx's transport.

    The native engine handles WebSocket handshakes, for which both engines use the same relay. It shares the health of
    the targets.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.requests = Upstream(settings, HttpxPool, loop=loop, ticker=ticker, tls=tls)
        self._handshakes = Upstream(settings, NativePool, loop=loop, ticker=ticker, tls=tls, beside=self.requests)

    @property
    def pools(self) -> Sequence[TargetPool]:
        """Those of the requests, in the file's order."""
        return self.requests.pools

    @property
    def open_connections(self) -> int:
        return self.requests.open_connections + self._handshakes.open_connections

    def samples(self, now: float) -> Iterator[Sample]:
        yield from self.requests.samples(now)
        yield from self._handshakes.traffic()

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        upstream = self.requests if request.handshake is None else self._handshakes
        return upstream.open(request, downstream, now)

    def close(self) -> None:
        self.requests.close()
        self._handshakes.close()
