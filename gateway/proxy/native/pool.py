"""The connections to one target: idle ones are reused last in, first out, new ones are made while the limit allows.

A request that finds no idle connection waits in line, and a connection is dialled for it; whichever becomes free first,
new or used, takes the first in line. The line is bounded, and nobody stands in it longer than `connect_timeout`.
"""

import asyncio
import logging
import ssl
from collections import deque
from typing import Final

from gateway.errors import Refusal
from gateway.proxy.health import TargetHealth
from gateway.proxy.native.connection import UpstreamConnection
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.target import Target, UpstreamLimits
from gateway.ticking import PERIOD, Ticker

LONGEST_LINE: Final = 4096  # requests that wait for a connection to one target
IDLE_LIMIT: Final = 60.0  # seconds after which an unused connection is closed: upstreams and NATs forget them

log: Final = logging.getLogger("gateway.proxy")


class TargetPool:
    """Connections to one target."""

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
        self.connections: set[UpstreamConnection] = set()
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._waiting: deque[NativeExchange] = deque()
        self._dials: set[asyncio.Task[None]] = set()
        self._closed = False
        ticker.listen(self._tick)

    @property
    def load(self) -> int:
        """Requests that are under way, or wait for a connection."""
        return len(self.connections) - len(self._idle) + len(self._waiting)

    def submit(self, exchange: NativeExchange, now: float, *, fresh: bool = False) -> None:
        """Send a request on an idle connection, or let it wait in line for one. `fresh`: a stale connection has just
        died under it; the other idle ones are as old, so they go, and a new one is made."""
        exchange.pool = self
        if fresh:
            self._drop_idle()
        if self._idle:
            self._idle.pop().begin(exchange, now)
        elif len(self._waiting) >= LONGEST_LINE or self._closed:
            self._loop.call_soon(self._turn_away, exchange)
        else:
            exchange.deadline = now + self.limits.connect_timeout
            self._waiting.append(exchange)
            self._dial_if_useful()

    def give_back(self, connection: UpstreamConnection) -> None:
        """A connection is free: for the first in line, else for later."""
        if self._closed:
            connection.close()
        elif self._waiting:
            connection.begin(self._waiting.popleft(), self._loop.time())
        else:
            connection.idle_since = self.ticker.now
            self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._dial_if_useful()

    def withdraw(self, exchange: NativeExchange) -> None:
        """Whoever waited in line with this request has left."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)

    def failed(self, exchange: NativeExchange, refusal: Refusal, *, may_repeat: bool) -> None:
        """The target failed a request before any byte of an answer."""
        if refusal.code != "upstream_invalid":
            self.note_failure(refusal.reason)
        exchange.engine.failed(exchange, refusal, may_repeat=may_repeat)

    def note_failure(self, reason: str) -> None:
        """Remember a failure of the target: a connect error, a time-out, or an answer 502, 503, 504 of its own."""
        if self.health.failed(self._loop.time()):
            log.warning("target %s is left out for a while: %s", self.target, reason)
            self._drop_idle()

    def close(self) -> None:
        """Close what is idle now and what is busy when it is done; nothing new is dialled."""
        self._closed = True
        self.ticker.ignore(self._tick)
        for dial in self._dials:
            dial.cancel()
        for connection in list(self.connections):
            connection.close_when_done()
        while self._waiting:
            self._waiting.popleft().downstream.refuse(Refusal("upstream_unavailable", "the gateway is stopping"))

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _dial_if_useful(self) -> None:
        dials = len(self._dials)
        if dials < len(self._waiting) and len(self.connections) + dials < self.limits.max_connections:
            dial = self._loop.create_task(self._dial())
            self._dials.add(dial)
            dial.add_done_callback(self._dial_over)

    async def _dial(self) -> None:
        """Make one connection. A failure is told to the first in line: somebody had it dialled, and each has one."""
        target = self.target
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self._loop.create_connection(
                    lambda: UpstreamConnection(self),
                    target.host,
                    target.port,
                    ssl=target.tls,
                    server_hostname=target.server_name,
                )
        except TimeoutError:
            self._dial_failed(Refusal("upstream_timeout", f"{target} did not accept a connection in time"))
        except ssl.SSLError as error:
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: TLS: {error}"))
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: {error}"))

    def _dial_failed(self, refusal: Refusal) -> None:
        if self._waiting:
            self.failed(self._waiting.popleft(), refusal, may_repeat=True)
        else:
            self.note_failure(refusal.reason)

    def _dial_over(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        if not self._closed:
            self._dial_if_useful()

    def _turn_away(self, exchange: NativeExchange) -> None:
        reason = f"{self.target}: {LONGEST_LINE} requests are waiting"
        exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))

    def _tick(self, now: float) -> None:
        """Time-outs of everything here; a deadline is passed by up to one period and never missed early."""
        while self._waiting and _past(self._waiting[0].deadline, now):
            self._waited_too_long(self._waiting.popleft())
        for connection in list(self.connections):
            connection.tick(now)
        while self._idle and self._idle[0].idle_since < now - IDLE_LIMIT:
            self._idle.pop(0).close()

    def _waited_too_long(self, exchange: NativeExchange) -> None:
        busy = len(self.connections) >= self.limits.max_connections
        if busy:  # that is our limit, not the target's failure
            reason = f"{self.target}: all {self.limits.max_connections} connections are busy"
            exchange.downstream.refuse(Refusal("overloaded", reason, retry_after=1))
        else:
            reason = f"{self.target} did not accept a connection in time"
            self.failed(exchange, Refusal("upstream_timeout", reason), may_repeat=True)


def _past(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline < now - PERIOD / 2
