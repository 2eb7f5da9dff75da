"""The native engine of one upstream: chooses a target for each request, and once more where that is safe."""

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import Refusal
from gateway.proxy.balance import Balancer
from gateway.proxy.budget import RetryBudget
from gateway.proxy.exchange import Downstream
from gateway.proxy.health import TargetHealth
from gateway.proxy.native.exchange import NativeExchange
from gateway.proxy.native.pool import TargetPool
from gateway.proxy.target import limits_of, target_of
from gateway.proxy.upstream_request import UpstreamRequest
from gateway.settings.model import HealthSettings, UpstreamSettings
from gateway.ticking import Ticker

if TYPE_CHECKING:
    from gateway.proxy.checks import HealthChecks


class NativeEngine:
    """Implements Engine over one pool of connections for each target."""

    def __init__(self, upstream: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker) -> None:
        self.name = upstream.name
        self.pools = [self._pool(url, upstream, loop, ticker) for url in upstream.targets]
        self._checks = _health_checks(self.pools, upstream.health)
        self._loop = loop
        self._retries = upstream.retries
        self._budget = RetryBudget(upstream.retry_budget)
        self._balancer = Balancer(self.pools, upstream.balance)
        self._only = self.pools[0] if len(self.pools) == 1 else None

    def _pool(
        self, url: str, upstream: UpstreamSettings, loop: asyncio.AbstractEventLoop, ticker: Ticker
    ) -> TargetPool:
        health = TargetHealth(upstream.health, upstream.eject)
        return TargetPool(target_of(url, upstream), limits_of(upstream), health, loop=loop, ticker=ticker)

    @property
    def open_connections(self) -> int:
        """How many connections there are now, busy and idle."""
        return sum(len(pool.connections) for pool in self.pools)

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> NativeExchange:
        """Send a request to one of the targets."""
        exchange = NativeExchange(self, request, downstream)
        self._budget.request()
        # One target is the common case, and nothing to choose from.
        only = self._only
        pool = only if only is not None and only.health.usable(now) else self._balancer.choose(now)
        if pool is None:
            self._loop.call_soon(downstream.refuse, self._nobody_is_well())
        else:
            pool.submit(exchange, now)
        return exchange

    def failed(self, exchange: NativeExchange, refusal: Refusal, *, may_repeat: bool) -> None:
        """An exchange failed before any byte of an answer: send it anew, or tell the caller.

        `may_repeat` says that nothing the upstream may have seen forbids it; the rest is decided here: how often, and
        whether the budget allows it.
        """
        failed_at = exchange.pool
        exchange.connection = None
        if may_repeat and exchange.repeatable and exchange.tries <= self._retries and self._budget.take():
            now = self._loop.time()
            pool = self._balancer.choose(now, avoid=failed_at)
            if pool is not None:
                exchange.tries += 1
                pool.submit(exchange, now, fresh=pool is failed_at)
                return
        exchange.downstream.refuse(refusal)

    def close(self) -> None:
        """Close what is idle now, and what is busy when it is done; nothing new is sent."""
        for checks in self._checks:
            checks.stop()
        for pool in self.pools:
            pool.close()

    def _nobody_is_well(self) -> Refusal:
        return Refusal("upstream_unavailable", f"no target of {self.name} is well", retry_after=1)


def _health_checks(pools: list[TargetPool], settings: HealthSettings | None) -> "list[HealthChecks]":
    if settings is None:
        return []
    from gateway.proxy.checks import HealthChecks  # httpx takes 50 ms and 8 MiB, which few configurations need

    return [HealthChecks(pool.target, pool.health, settings) for pool in pools]
