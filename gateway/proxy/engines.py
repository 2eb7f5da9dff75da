"""Which engine speaks to an upstream, and who looks after its targets."""

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
    """Have ready what the engines of these upstreams need: a running gateway imports nothing in its loop."""
    if any(upstream.engine == "httpx" for upstream in upstreams):
        import gateway.proxy.httpx_engine.engine  # noqa: F401


def engine_of(
    upstream: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker, tls: ssl.SSLContext | None
) -> Engine:
    """The engine that the settings of an upstream ask for; `tls` is how its https targets are spoken to."""
    engine: ChoosingEngine[Any]
    if upstream.engine == "httpx":
        from gateway.proxy.httpx_engine.engine import (
            HttpxEngine,  # its library takes 50 ms and 8 MiB, and few ask for it
        )

        engine = HttpxEngine(upstream, loop=loop, ticker=ticker, tls=tls)
    else:
        engine = NativeEngine(upstream, loop=loop, ticker=ticker, tls=tls)
    if upstream.health is not None:
        pools: Sequence[TargetLine[Any]] = engine.pools
        engine.ends([HealthChecks(upstream.targets[i], upstream, pool, ticker=ticker) for i, pool in enumerate(pools)])
    return engine
