"""The choice of a target for a request, and of another one after a failure, for all engines.

A request is sent again only if that is safe and the retry budget allows it. It is safe if nothing of the request was
written, or if its method is idempotent, nothing of its body was written, and no byte of a response has come.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Protocol

from gateway.errors import Refusal
from gateway.proxy.balancer import Balancer, HashBalancer, RetryBudget
from gateway.proxy.connection_pool import ConnectionFactory, ConnectionPool
from gateway.proxy.exchange import TargetPool, UpstreamExchange
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.health import UpstreamHealth
from gateway.proxy.interfaces import Downstream, Exchange
from gateway.proxy.target import limits_of, target_of
from gateway.samples import Sample
from gateway.settings.model import BalanceSettings, UpstreamSettings
from gateway.ticker import Ticker


class Stoppable(Protocol):
    """An activity that runs until it is stopped."""

    def stop(self) -> None:
        """End the activity."""


class Upstream:
    """Implements Engine over one pool for each target. `pools` are in the file's order. `checks` end with it."""

    checks: Sequence[Stoppable] = ()

    def __init__(
        self,
        settings: UpstreamSettings,
        connection_factory: ConnectionFactory,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        tls: ssl.SSLContext | None,
        beside: "Upstream | None" = None,
    ) -> None:
        """`tls` is the context for https targets. `beside` is the same upstream with another engine, which shares the
        health of the targets and the retry budget."""
        self.name = settings.name
        self._loop = loop
        limits = limits_of(settings)
        self.health: UpstreamHealth = (
            UpstreamHealth(len(settings.targets), settings.health, settings.eject) if beside is None else beside.health
        )
        self.pools: Sequence[TargetPool] = [
            ConnectionPool(
                target_of(url, settings, tls),
                limits,
                health,
                connection_factory=connection_factory,
                loop=loop,
                ticker=ticker,
            )
            for url, health in zip(settings.targets, self.health.targets, strict=True)
        ]
        self._retries = settings.retries
        self._budget: RetryBudget = RetryBudget(settings.retry_budget) if beside is None else beside._budget
        self._balancer: Balancer[TargetPool] = (
            HashBalancer(self.pools, settings.targets)
            if isinstance(settings.balance, BalanceSettings)
            else Balancer(self.pools, settings.balance)
        )
        self._retried = self._spent = 0  # retries, and retries that the budget refused
        self._earned = 0  # the requests that the budget has counted
        self._only = self.pools[0] if len(self.pools) == 1 else None

    @property
    def open_connections(self) -> int:
        return sum(pool.open_connections for pool in self.pools)

    def samples(self, now: float) -> Iterator[Sample]:
        yield from self.traffic()
        yield from self.health.samples(self.name, now)
        for pool in self.pools:
            yield from pool.health.samples((self.name, str(pool.target)), now)

    def traffic(self) -> Iterator[Sample]:
        """Yield the metrics that another engine of the same upstream does not share."""
        yield Sample("gateway_upstream_retries_total", (self.name,), self._retried)
        yield Sample("gateway_upstream_retries_refused_total", (self.name,), self._spent)
        for pool in self.pools:
            yield from pool.samples(self.name)

    def open(self, request: UpstreamRequest, downstream: Downstream, now: float) -> Exchange:
        exchange = UpstreamExchange(self, request, downstream)
        # One target is the common case. It is never ejected.
        only = self._only
        pool = only if only is not None and only.health.is_up else self._balancer.choose(now, None, request.hash_key)
        if pool is None:
            self._loop.call_soon(downstream.refuse, self._unavailable(now))
        else:
            pool.submit(exchange, now)
        return exchange

    def failed(self, exchange: UpstreamExchange, refusal: Refusal, *, may_repeat: bool, unsent: bool = False) -> None:
        failed_at = exchange.pool
        repeatable = unsent or (may_repeat and exchange.repeatable)
        if repeatable and exchange.tries <= self._retries:
            now = self._loop.time()
            pool = self._balancer.choose(now, failed_at, exchange.request.hash_key)
            if pool is not None and not self._takes_retry():
                self._spent += 1
            elif pool is not None:
                self._retried += 1
                exchange.tries += 1
                pool.submit(exchange, now, fresh=pool is failed_at)
                return
        exchange.downstream.refuse(refusal)

    def _takes_retry(self) -> bool:
        """Return whether the budget allows a retry. The requests since the last failure count first."""
        requests = sum(pool.submitted for pool in self.pools) - self._retried
        self._budget.earn(requests - self._earned)
        self._earned = requests
        return self._budget.take()

    def close(self) -> None:
        for check in self.checks:
            check.stop()
        for pool in self.pools:
            pool.close()

    def _unavailable(self, now: float) -> Refusal:
        wait = ceil(self._balancer.wait(now))
        return Refusal("upstream_unavailable", f"no target of {self.name} is healthy", retry_after=max(1, wait))
