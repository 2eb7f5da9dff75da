"""The connections to one target: idle ones are reused last in, first out, new ones are made while the limit allows.

A request that finds no idle connection waits in line, and a connection is dialled for it; whichever becomes free first,
new or used, takes the first in line. The line is bounded, and nobody stands in it longer than `connect_timeout`.
"""

import asyncio
import ssl
from collections import deque
from typing import Final

from gateway.errors import Refusal
from gateway.proxy.exchange import Downstream, UpstreamRequest
from gateway.proxy.native.connection import UpstreamConnection
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.target import Target, UpstreamLimits
from gateway.ticking import PERIOD, Ticker

LONGEST_LINE: Final = 4096  # requests that wait for a connection to one target
IDLE_LIMIT: Final = 60.0  # seconds after which an unused connection is closed: upstreams and NATs forget them


class TargetPool:
    """Connections to one target. `open` is an Engine's."""

    def __init__(
        self, target: Target, limits: UpstreamLimits, *, loop: asyncio.AbstractEventLoop, ticker: Ticker
    ) -> None:
        self.target = target
        self.limits = limits
        self.ticker = ticker
        self.connections: set[UpstreamConnection] = set()
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._waiting: deque[NativeExchange] = deque()
        self._dials: set[asyncio.Task[None]] = set()
        self._closed = False
        ticker.listen(self._tick)

    @property
    def open_connections(self) -> int:
        """How many connections there are now, busy and idle."""
        return len(self.connections)

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> NativeExchange:
        """Send a request on an idle connection, or wait in line for one."""
        exchange = NativeExchange(self, request, downstream)
        if self._idle:
            self._idle.pop().begin(exchange, now)
        elif len(self._waiting) >= LONGEST_LINE or self._closed:
            self._loop.call_soon(self._turn_away, exchange)
        else:
            self._stand_in_line(exchange, now)
        return exchange

    def retry(self, exchange: NativeExchange) -> None:
        """Send again what died with a stale connection. The other idle ones are as old: a new one is made."""
        exchange.retried = True
        exchange.connection = None
        for stale in self._idle:
            stale.close()
        self._idle.clear()
        self._stand_in_line(exchange, self._loop.time())

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

    async def close(self) -> None:
        """Close what is idle now and what is busy when it is done; nothing new is dialled."""
        self._closed = True
        for dial in self._dials:
            dial.cancel()
        for connection in list(self.connections):
            connection.close_when_done()
        while self._waiting:
            self._waiting.popleft().downstream.refuse(Refusal("upstream_unavailable", "the gateway is stopping"))

    def _stand_in_line(self, exchange: NativeExchange, now: float) -> None:
        exchange.deadline = now + self.limits.connect_timeout
        self._waiting.append(exchange)
        self._dial_if_useful()

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
                    server_hostname=target.server_name if target.tls else None,
                )
        except TimeoutError:
            self._dial_failed(Refusal("upstream_timeout", f"{target} did not accept a connection in time"))
        except ssl.SSLError as error:
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: TLS: {error}"))
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: {error}"))

    def _dial_failed(self, refusal: Refusal) -> None:
        if self._waiting:
            self._waiting.popleft().downstream.refuse(refusal)

    def _dial_over(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        if not self._closed:
            self._dial_if_useful()

    def _turn_away(self, exchange: NativeExchange) -> None:
        exchange.downstream.refuse(Refusal("overloaded", f"{self.target}: {LONGEST_LINE} requests are waiting"))

    def _tick(self, now: float) -> None:
        """Time-outs of everything here; a deadline is passed by up to one period and never missed early."""
        while self._waiting and _past(self._waiting[0].deadline, now):
            self._waiting.popleft().downstream.refuse(self._waited_too_long())
        for connection in list(self.connections):
            connection.tick(now)
        while self._idle and self._idle[0].idle_since < now - IDLE_LIMIT:
            self._idle.pop(0).close()

    def _waited_too_long(self) -> Refusal:
        if len(self.connections) >= self.limits.max_connections:
            return Refusal("overloaded", f"{self.target}: all {self.limits.max_connections} connections are busy")
        return Refusal("upstream_timeout", f"{self.target} did not accept a connection in time")


def _past(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline < now - PERIOD / 2
