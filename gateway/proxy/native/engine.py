"""The native engine: HTTP/1.1 over asyncio protocols and llhttp, with pooled connections."""

from gateway.proxy.choosing import ChoosingEngine
from gateway.proxy.exchange import Downstream
from gateway.proxy.health import TargetHealth
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.native.pool import TargetPool
from gateway.proxy.target import Target, UpstreamLimits
from gateway.proxy.upstream_request import UpstreamRequest


class NativeEngine(ChoosingEngine[NativeExchange]):
    """Implements Engine over one pool of connections for each target."""

    def _pool(self, target: Target, limits: UpstreamLimits, health: TargetHealth) -> TargetPool:
        return TargetPool(target, limits, health, loop=self._loop, ticker=self._ticker)

    def _exchange(self, request: UpstreamRequest, downstream: Downstream) -> NativeExchange:
        return NativeExchange(self, request, downstream)
