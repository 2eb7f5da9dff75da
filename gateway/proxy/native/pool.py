"""The connections to one target: idle ones are reused last in, first out, new ones are made while the limit allows.

A request that finds no idle connection waits in line, and a connection is dialled for it; whichever becomes free first,
new or used, takes the first in line.
"""

import asyncio
import ssl
from typing import Final

from gateway.errors import Refusal
from gateway.proxy.dialling import Dialler
from gateway.proxy.health import TargetHealth
from gateway.proxy.line import TargetLine
from gateway.proxy.native.connection import UpstreamConnection
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.target import Target, UpstreamLimits
from gateway.ticking import Ticker

IDLE_LIMIT: Final = 60.0  # seconds after which an unused connection is closed: upstreams and NATs forget them


class TargetPool(TargetLine[NativeExchange]):
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
        self.connections: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []
        self._dials: set[asyncio.Task[None]] = set()
        self._dialler = Dialler(target, loop)
        super().__init__(target, limits, health, loop=loop, ticker=ticker)

    @property
    def load(self) -> int:
        """Requests that are under way, or wait for a connection."""
        return len(self.connections) - len(self._idle) + len(self._waiting)

    @property
    def open_connections(self) -> int:
        """How many connections there are now, busy and idle."""
        return len(self.connections)

    @property
    def idle_connections(self) -> int:
        """How many of them nobody uses just now."""
        return len(self._idle)

    def submit(self, exchange: NativeExchange, now: float, *, fresh: bool = False) -> None:
        """Send a request on an idle connection, or let it wait in line for one. `fresh`: a stale connection has just
        died under it; the other idle ones are as old, so they go, and a new one is made."""
        exchange.pool = self
        if fresh:
            self._drop_idle()
        if self._idle:
            self._idle.pop().begin(exchange, now)
        elif self._stand_in_line(exchange, now):
            self._dial_if_useful()

    def give_back(self, connection: UpstreamConnection) -> None:
        """A connection is free: for the first in line, else for later."""
        if self._waiting:
            connection.begin(self._first_in_line(), self._loop.time())
        elif self._closed:
            connection.close()
        else:
            connection.idle_since = self.ticker.now
            self._idle.append(connection)

    def retire(self, connection: UpstreamConnection) -> None:
        """A connection is ending: nobody is to get it any more. The loop may tell of that only after other callers."""
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.retire(connection)
        self._dial_if_useful()

    def close(self) -> None:
        """Close what is idle now and what is busy when it is done."""
        super().close()
        self._drop_idle()
        for connection in list(self.connections):
            connection.close_when_done()

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
            await self._dialler.dial(lambda: UpstreamConnection(self), self.limits.connect_timeout)
        except TimeoutError:
            self._dial_failed(Refusal("upstream_timeout", f"{target} did not accept a connection in time"))
        except ssl.SSLError as error:
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: TLS: {error}"))
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._dial_failed(Refusal("upstream_unreachable", f"{target}: {error}"))

    def _dial_failed(self, refusal: Refusal) -> None:
        if self._waiting:
            self.failed(self._first_in_line(), refusal, may_repeat=True, unsent=True)
        else:
            self.note_failure(refusal.reason)

    def _dial_over(self, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        self._dial_if_useful()

    def _waits_for_a_place(self) -> bool:
        return len(self.connections) >= self.limits.max_connections

    def _left_out(self) -> None:
        self._drop_idle()

    def _tick(self, now: float) -> None:
        """Time-outs of everything here; a deadline is passed by up to one period and never missed early."""
        super()._tick(now)
        for connection in list(self.connections):
            connection.tick(now)
        while self._idle and self._idle[0].idle_since < now - IDLE_LIMIT:
            self._idle.pop(0).close()
