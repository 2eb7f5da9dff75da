"""The httpx engine of one upstream."""

import asyncio
import ssl
from collections.abc import Iterator

from gateway.proxy.choosing import ChoosingEngine
from gateway.proxy.exchange import Downstream, Exchange
from gateway.proxy.health import TargetHealth
from gateway.proxy.httpx.exchange import HttpxExchange
from gateway.proxy.httpx.line import HttpxLine
from gateway.proxy.native.engine import NativeEngine
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.upstream_request import UpstreamRequest
from gateway.samples import Sample
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


class HttpxEngine(ChoosingEngine[HttpxExchange]):
    """Implements Engine by httpx's transport.

    WebSocket is one relay whatever the engine: a handshake goes by a native one, which shares with this what is known
    of the targets.
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
        """How many connections there are now, those of handshakes included."""
        native = 0 if self._native is None else self._native.open_connections
        return super().open_connections + native

    def traffic(self) -> Iterator[Sample]:
        """What there is to tell about connections and retries, those of handshakes included."""
        yield from super().traffic()
        if self._native is not None:
            yield from self._native.traffic()

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        """Send a request to one of the targets."""
        if request.handshake is not None:
            return self._for_handshakes().open(request, downstream, now)
        return super().open(request, downstream, now)

    def close(self) -> None:
        """Keep nothing for later: what runs goes on to its end."""
        super().close()
        if self._native is not None:
            self._native.close()

    def _for_handshakes(self) -> NativeEngine:
        if self._native is None:
            self._native = NativeEngine(
                self._upstream, loop=self._loop, ticker=self._ticker, tls=self._tls, beside=self
            )
        return self._native
