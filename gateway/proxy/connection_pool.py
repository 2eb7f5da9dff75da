"""The connections to one target, for all engines.

Idle connections are reused last in, first out. New ones are opened up to the limit. A request that finds no idle
connection waits in the queue, and a connection is dialled for it. The first connection that becomes free, new or used,
serves the first request in the queue.

A target can close an idle connection at any time, and a request sent on it at that moment is lost. Idle connections are
therefore closed after a time shorter than the target's own, and a socket is checked before its reuse.
"""

import asyncio
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from gateway.errors import Refusal
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.health import TargetHealth
from gateway.proxy.idle_limit import IdleLimit
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.target_connector import TargetConnector
from gateway.proxy.target_queue import TargetQueue
from gateway.samples import Sample
from gateway.ticker import Ticker


class PooledConnection(Protocol):
    """A connection as its pool uses it. `idle_since` is the loop's time at which it last became free."""

    idle_since: float

    @property
    def exchange(self) -> UpstreamExchange | None:
        """The request in progress."""

    @property
    def is_new(self) -> bool:
        """Whether it has served no request."""

    def is_silent(self) -> bool:
        """Whether the target has neither closed an idle connection nor sent anything on it."""

    def begin(self, exchange: UpstreamExchange, now: float) -> None:
        """Send a request. `now` is the loop's time."""

    def tick(self, now: float) -> None:
        """Enforce the time limits of the request in progress."""

    def close(self) -> None:
        """Close at once."""

    def close_when_done(self) -> None:
        """Close now if idle, or after the running exchange."""


class ConnectionFactory(Protocol):
    """Makes the connections of an engine, which are asyncio protocols. `keeps_alive`: each serves several requests."""

    @property
    def keeps_alive(self) -> bool: ...

    def __call__(self, queue: TargetQueue, pool: "ConnectionPool") -> Any: ...


class ConnectionPool:
    """Implements TargetPool for exchanges, and QueuedPool for the queue. Connections report their state to it."""

    def __init__(
        self,
        target: Target,
        limits: UpstreamLimits,
        health: TargetHealth,
        *,
        connection_factory: ConnectionFactory,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.target = target
        self.health = health
        self.limits = limits
        self.submitted = 0
        self.connections: set[PooledConnection] = set()
        self._idle: list[PooledConnection] = []  # newest last
        self.idle_limit = IdleLimit(limits.keep_alive)
        self._dials: dict[asyncio.Task[None], None] = {}  # newest last
        self._connector = TargetConnector(target, loop)
        self._make = connection_factory
        self._keeps_idle = connection_factory.keeps_alive
        self._loop = loop
        self.queue = TargetQueue(target, limits, health, pool=self, loop=loop, ticker=ticker)

    @property
    def load(self) -> int:
        return len(self.connections) - len(self._idle) + len(self.queue)

    @property
    def open_connections(self) -> int:
        return len(self.connections)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    @property
    def is_full(self) -> bool:
        return len(self.connections) >= self.limits.max_connections

    def samples(self, upstream: str) -> Iterator[Sample]:
        yield Sample("gateway_upstream_requests_total", (upstream, str(self.target)), self.submitted)
        yield from self.queue.samples(upstream)

    def submit(self, exchange: UpstreamExchange, now: float, *, fresh: bool = False) -> None:
        """With `fresh`, the other idle connections are older than the failed one, so they are closed."""
        exchange.pool = self
        self.submitted += 1
        if fresh:
            self.drop_idle()
        idle = self._idle
        if idle and self.queue.fair is None:
            newest = idle[-1]
            if now - newest.idle_since < self.idle_limit.careful and newest.is_silent():
                del idle[-1]
                newest.begin(exchange, now)
                return
        connection = self._checked_idle(exchange, now)
        if connection is not None:
            self._begin(connection, exchange, now)
        else:
            self._wait_for_connection(exchange, now)

    def withdraw(self, exchange: UpstreamExchange) -> None:
        self.queue.remove(exchange)
        if not self._keeps_idle and len(self._dials) > len(self.queue):
            next(reversed(self._dials)).cancel()

    def close(self) -> None:
        self.queue.close()
        self._keeps_idle = False
        self.drop_idle()
        for connection in list(self.connections):
            connection.close_when_done()

    # ---- for the connections

    def made(self, connection: PooledConnection) -> None:
        """Count a new connection, and use it."""
        self.connections.add(connection)
        self.give_back(connection)

    def give_back(self, connection: PooledConnection) -> None:
        """Use a free connection for the next waiting request, or keep it for later."""
        connection.idle_since = now = self._loop.time()
        queue = self.queue.fair
        if queue is not None:
            queue.release(connection)
            if queue and (connection.is_new or connection.is_silent()):
                self._begin(connection, queue.next(), now)
                return
            if queue:
                connection.close()
                return
        if self._keeps_idle:
            self._idle.append(connection)
        else:
            connection.close()

    def retire(self, connection: PooledConnection) -> None:
        """Remove a connection that is closing from the idle ones. The loop reports its end later."""
        if connection in self._idle:
            self._idle.remove(connection)

    def ended(self, connection: PooledConnection) -> None:
        """Remove a connection that the target has closed."""
        if connection in self._idle:
            self._idle.remove(connection)
            self.closed_early(connection)

    def closed_early(self, connection: PooledConnection) -> None:
        """Note the idle time after which the target closed a connection."""
        now = self._loop.time()
        self.idle_limit.closed(now - connection.idle_since, now)

    def lost(self, connection: PooledConnection) -> None:
        """Forget a lost connection."""
        self.connections.discard(connection)
        if self.queue.fair is not None:
            self.queue.fair.release(connection)
        self.ended(connection)
        self._dial_if_useful()

    # ---- for the queue

    def busy(self) -> Iterable[tuple[PooledConnection, UpstreamExchange]]:
        pairs = [(connection, connection.exchange) for connection in self.connections]
        return [(connection, exchange) for connection, exchange in pairs if exchange is not None]

    def drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def tick(self, now: float) -> None:
        for connection in list(self.connections):
            connection.tick(now)
        self.idle_limit.tick(now)
        while self._idle and self._idle[0].idle_since < now - self.idle_limit.seconds:
            self._idle.pop(0).close()
        if self._idle:
            self.idle_limit.survived(now - self._idle[0].idle_since)

    # ---- connections for requests

    def _checked_idle(self, exchange: UpstreamExchange, now: float) -> PooledConnection | None:
        """Return the newest idle connection that is young enough for this request and not closed by its target."""
        repeatable = exchange.request.is_repeatable and self.limits.retries > 0
        longest = self.idle_limit.seconds if repeatable else self.idle_limit.careful
        while self._idle and now - self._idle[-1].idle_since <= longest:
            connection = self._idle.pop()
            if connection.is_silent():
                return connection
            self.closed_early(connection)
            connection.close()
        return None

    def _begin(self, connection: PooledConnection, exchange: UpstreamExchange, now: float) -> None:
        if self.queue.fair is not None:
            self.queue.fair.hold(connection, exchange)
        connection.begin(exchange, now)

    def _wait_for_connection(self, exchange: UpstreamExchange, now: float) -> None:
        if not self.queue.add(exchange, now):
            return
        if self._idle and len(self.connections) + len(self._dials) >= self.limits.max_connections:
            self._idle.pop(0).close()  # too old for this request: make room for a new one
        self._dial_if_useful()

    def _dial_if_useful(self) -> None:
        dials = len(self._dials)
        if dials < len(self.queue) and len(self.connections) + dials < self.limits.max_connections:
            dial = self._loop.create_task(self._dial())
            self._dials[dial] = None
            dial.add_done_callback(self._dial_over)

    async def _dial(self) -> None:
        """Open one connection. A failure fails the first request in the queue, because each request has one dial."""
        target = self.target
        try:
            await self._connector.connect(lambda: self._make(self.queue, self), self.limits.connect_timeout)
        except TimeoutError:
            self._dial_failed(Refusal("upstream_timeout", f"{target} did not accept a connection in time"))
        except ssl.SSLError as tls_error:
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: TLS: {tls_error}"))
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: {error}"))

    def _dial_failed(self, refusal: Refusal) -> None:
        if self.queue.fair:
            self.queue.failed(self.queue.fair.next(), refusal, may_repeat=True, unsent=True)
        else:
            self.queue.note_failure(refusal.reason)

    def _dial_over(self, dial: asyncio.Task[None]) -> None:
        del self._dials[dial]
        self._dial_if_useful()
