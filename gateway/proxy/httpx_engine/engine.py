"""The httpx engine of one upstream."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence

from gateway.proxy.exchange import TargetPool
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.httpx_engine.connection import HttpxConnection
from gateway.proxy.interfaces import Downstream, Exchange
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.upstream import Upstream
from gateway.samples import Sample
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


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
        self.requests = Upstream(settings, HttpxConnection, loop=loop, ticker=ticker, tls=tls)
        self._handshakes = Upstream(
            settings, UpstreamConnection, loop=loop, ticker=ticker, tls=tls, beside=self.requests
        )

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
