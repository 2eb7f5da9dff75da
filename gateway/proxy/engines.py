"""Which engine speaks to an upstream."""

import asyncio

from gateway.proxy.exchange import Engine
from gateway.proxy.native.engine import NativeEngine
from gateway.settings.model import UpstreamSettings
from gateway.ticking import Ticker


def engine_of(upstream: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker) -> Engine:
    """The engine that the settings of an upstream ask for. Raises CannotStart when its TLS files cannot be used."""
    if upstream.engine == "httpx":
        from gateway.proxy.httpx.engine import HttpxEngine  # its library takes 50 ms and 8 MiB, and few ask for it

        return HttpxEngine(upstream, loop=loop, ticker=ticker)
    return NativeEngine(upstream, loop=loop, ticker=ticker)
