"""Creates the engine of an upstream, and the health checks of its targets."""

import asyncio
import ssl
from collections.abc import Iterable

from gateway.proxy.health_checks import HealthChecks
from gateway.proxy.interfaces import Engine
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.upstream import Upstream
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


def import_engines(upstreams: Iterable[UpstreamSettings]) -> None:
    """Import the engines of these upstreams before requests arrive, because imports block the event loop."""
    if any(upstream.engine == "httpx" for upstream in upstreams):
        import gateway.proxy.httpx_engine.engine  # noqa: F401


def engine_of(
    settings: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker, tls: ssl.SSLContext | None
) -> Engine:
    """Return the engine that the settings of an upstream select. `tls` is the context for its https targets."""
    engine: Engine
    if settings.engine == "httpx":
        # httpx takes 50 ms and 8 MiB, and few upstreams use it.
        from gateway.proxy.httpx_engine.engine import HttpxEngine

        engine = httpx_engine = HttpxEngine(settings, loop=loop, ticker=ticker, tls=tls)
        upstream = httpx_engine.requests
    else:
        engine = upstream = Upstream(settings, UpstreamConnection, loop=loop, ticker=ticker, tls=tls)
    if settings.health is not None:
        upstream.checks = [
            HealthChecks(url, settings, pool, ticker=ticker)
            for url, pool in zip(settings.targets, upstream.pools, strict=True)
        ]
    return engine
