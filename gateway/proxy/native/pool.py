"""The native engine of one upstream: HTTP/1.1 with llhttp over a pool of connections to each target.

Idle connections are reused last in, first out. New ones are opened up to the limit. A request that finds no idle
connection waits in the queue, and a connection is dialled for it. The first connection that becomes free, new or used,
serves the first request in the queue.

A target can close an idle connection at any time, and a request sent on it at that moment is lost. Idle connections are
therefore closed after a time shorter than the target's own, and a socket is checked before its reuse.
"""

import asyncio
import ssl
from collections.abc import Iterable

from gateway.errors import Refusal
from gateway.proxy.dialer import Dialler
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.health import TargetHealth
from gateway.proxy.interfaces import Downstream
from gateway.proxy.native.http11 import NativeExchange, UpstreamConnection
from gateway.proxy.native.idle_limit import IdleLimit
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.target_queue import TargetLine
from gateway.proxy.upstream import ChoosingEngine
from gateway.ticker import Ticker


class TargetPool(TargetLine[NativeExchange]):
    """The connections to one target."""

    def __init__(
        self,
        target: Target,
        limits: UpstreamLimits,
        health: TargetHealth,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
    ) -> None:
        self.connections: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []  # newest last
        self.idle_limit = IdleLimit(limits.keep_alive)
        self._dials: set[asyncio.Task[None]] = set()
        self._dialler = Dialler(target, loop)
        super().__init__(target, limits, health, loop=loop, ticker=ticker)

    @property
    def load(self) -> int:
        """The number of requests in progress or waiting for a connection."""
        return len(self.connections) - len(self._idle) + self.waiting

    @property
    def open_connections(self) -> int:
        """The number of connections, busy and idle."""
        return len(self.connections)

    @property
    def idle_connections(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    def submit(self, exchange: NativeExchange, now: float, *, fresh: bool = False) -> None:
        """Send a request on an idle connection, or queue it. `fresh`: a stale connection has just failed during the
        request. The other idle connections are older, so they are closed and a new one is opened."""
        exchange.pool = self
        if fresh:
            self._drop_idle()
        idle = self._idle
        if idle and self._queue is None:
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

    def give_back(self, connection: UpstreamConnection) -> None:
        """Use a free connection for the next waiting request, or keep it for later."""
        connection.idle_since = now = self._loop.time()
        queue = self._queue
        if queue is not None:
            queue.release(connection)
            if queue and (connection.is_new or connection.is_silent()):
                self._begin(connection, queue.next(), now)
                return
            if queue:
                connection.close()
                return
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def retire(self, connection: UpstreamConnection) -> None:
        """Remove a connection that is closing from the idle ones. The loop reports its end later."""
        if connection in self._idle:
            self._idle.remove(connection)

    def ended(self, connection: UpstreamConnection) -> None:
        """Remove a connection that the target has closed."""
        if connection in self._idle:
            self._idle.remove(connection)
            self.closed_early(connection)

    def closed_early(self, connection: UpstreamConnection) -> None:
        """Note the idle time after which the target closed a connection."""
        now = self._loop.time()
        self.idle_limit.closed(now - connection.idle_since, now)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a lost connection."""
        self.connections.discard(connection)
        if self._queue is not None:
            self._queue.release(connection)
        self.ended(connection)
        self._dial_if_useful()

    def close(self) -> None:
        """Close idle connections now, and busy ones when their requests end."""
        super().close()
        self._drop_idle()
        for connection in list(self.connections):
            connection.close_when_done()

    def _checked_idle(self, exchange: NativeExchange, now: float) -> UpstreamConnection | None:
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

    def _begin(self, connection: UpstreamConnection, exchange: NativeExchange, now: float) -> None:
        if self._queue is not None:
            self._queue.hold(connection, exchange)
        connection.begin(exchange, now)

    def _wait_for_connection(self, exchange: NativeExchange, now: float) -> None:
        if not self._stand_in_line(exchange, now):
            return
        if self._idle and len(self.connections) + len(self._dials) >= self.limits.max_connections:
            self._idle.pop(0).close()  # too old for this request: make room for a new one
        self._dial_if_useful()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _dial_if_useful(self) -> None:
        dials = len(self._dials)
        if dials < self.waiting and len(self.connections) + dials < self.limits.max_connections:
            dial = self._loop.create_task(self._dial())
            self._dials.add(dial)
            dial.add_done_callback(self._dial_over)

    async def _dial(self) -> None:
        """Open one connection. A failure fails the first request in the queue, because each request has one dial."""
        target = self.target
        try:
            await self._dialler.dial(lambda: UpstreamConnection(self), self.limits.connect_timeout)
        except TimeoutError:
            self._dial_failed(Refusal("upstream_timeout", f"{target} did not accept a connection in time"))
        except ssl.SSLError as error:
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: TLS: {error}"))
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: {error}"))

    def _dial_failed(self, refusal: Refusal) -> None:
        if self._queue:
            self.failed(self._queue.next(), refusal, may_repeat=True, unsent=True)
        else:
            self.note_failure(refusal.reason)

    def _dial_over(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        self._dial_if_useful()

    def _waits_for_a_place(self) -> bool:
        return len(self.connections) >= self.limits.max_connections

    def _busy(self) -> Iterable[tuple[UpstreamConnection, NativeExchange]]:
        pairs = [(connection, connection.exchange) for connection in self.connections]
        return [(connection, exchange) for connection, exchange in pairs if exchange is not None]

    def _left_out(self) -> None:
        self._drop_idle()

    def _tick(self, now: float) -> None:
        """Check all time limits. Each ends at most one period late and never early."""
        super()._tick(now)
        for connection in list(self.connections):
            connection.tick(now)
        self.idle_limit.tick(now)
        while self._idle and self._idle[0].idle_since < now - self.idle_limit.seconds:
            self._idle.pop(0).close()
        if self._idle:
            self.idle_limit.survived(now - self._idle[0].idle_since)


class NativeEngine(ChoosingEngine[NativeExchange]):
    """Implements Engine with a pool of connections to each target."""

    def _pool(self, target: Target, limits: UpstreamLimits, health: TargetHealth) -> TargetPool:
        return TargetPool(target, limits, health, loop=self._loop, ticker=self._ticker)

    def _exchange(self, request: UpstreamRequest, downstream: Downstream) -> NativeExchange:
        return NativeExchange(self, request, downstream)
