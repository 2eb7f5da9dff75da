"""Creates the engine of an upstream, and the health checks of its targets."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.proxy.health_checks import HealthChecks
from gateway.proxy.interfaces import Engine
from gateway.proxy.native.pool import NativeEngine
from gateway.proxy.target_queue import TargetLine
from gateway.proxy.upstream import ChoosingEngine
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


def import_engines(upstreams: Iterable[UpstreamSettings]) -> None:
    """Import the engines of these upstreams before requests arrive, because imports block the event loop."""
    if any(upstream.engine == "httpx" for upstream in upstreams):
        import gateway.proxy.httpx_engine.engine  # noqa: F401


def engine_of(
    upstream: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker, tls: ssl.SSLContext | None
) -> Engine:
    """Return the engine that the settings of an upstream select. `tls` is the context for its https targets."""
    engine: ChoosingEngine[Any]
    if upstream.engine == "httpx":
        from gateway.proxy.httpx_engine.engine import (
            HttpxEngine,  # its library takes 50 ms and 8 MiB, and few upstreams use it
        )

        engine = HttpxEngine(upstream, loop=loop, ticker=ticker, tls=tls)
    else:
        engine = NativeEngine(upstream, loop=loop, ticker=ticker, tls=tls)
    if upstream.health is not None:
        pools: Sequence[TargetLine[Any]] = engine.pools
        engine.ends([HealthChecks(upstream.targets[i], upstream, pool, ticker=ticker) for i, pool in enumerate(pools)])
    return engine
