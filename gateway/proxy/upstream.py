"""The choice of a target for a request, and of another one after a failure, for all engines.

Each engine adds its HTTP implementation. A request is sent again only if that is safe and the retry budget allows it.
It is safe if nothing of the request was written, or if its method is idempotent, nothing of its body was written, and
no byte of a response has come.
"""

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, Generic, Protocol, TypeVar

from gateway.errors import Refusal
from gateway.proxy.balancer import Balancer, HashBalancer, RetryBudget
from gateway.proxy.exchange import UpstreamExchange
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.health import TargetHealth, UpstreamHealth
from gateway.proxy.interfaces import Downstream, Exchange
from gateway.proxy.target import Target, UpstreamLimits, limits_of, target_of
from gateway.proxy.target_queue import TargetLine
from gateway.samples import Sample
from gateway.settings.model import BalanceSettings, UpstreamSettings
from gateway.ticker import Ticker

E = TypeVar("E", bound=UpstreamExchange)


class Stoppable(Protocol):
    """An activity that runs until it is stopped."""

    def stop(self) -> None:
        """End the activity."""


class ChoosingEngine(ABC, Generic[E]):
    """The part of Engine that does not depend on the HTTP implementation. `pools` are its targets, in the file's
    order."""

    def __init__(
        self,
        upstream: UpstreamSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        tls: ssl.SSLContext | None,
        beside: "ChoosingEngine[Any] | None" = None,
    ) -> None:
        """`tls` is the context for https targets. `beside` is another engine of the same upstream, which shares the
        health of the targets and the retry budget."""
        self.name = upstream.name
        self._loop = loop
        self._ticker = ticker
        limits = limits_of(upstream)
        self.health: UpstreamHealth = (
            UpstreamHealth(len(upstream.targets), upstream.health, upstream.eject) if beside is None else beside.health
        )
        self.pools: Sequence[TargetLine[E]] = [
            self._pool(target_of(url, upstream, tls), limits, health)
            for url, health in zip(upstream.targets, self.health.targets, strict=True)
        ]
        self._checks: Sequence[Stoppable] = ()
        self._retries = upstream.retries
        self._budget: RetryBudget = RetryBudget(upstream.retry_budget) if beside is None else beside._budget
        self._balancer: Balancer[TargetLine[E]] = (
            HashBalancer(self.pools, upstream.targets)
            if isinstance(upstream.balance, BalanceSettings)
            else Balancer(self.pools, upstream.balance)
        )
        self._retried = self._spent = 0  # retries, and retries that the budget refused
        self._only = self.pools[0] if len(self.pools) == 1 else None

    @abstractmethod
    def _pool(self, target: Target, limits: UpstreamLimits, health: TargetHealth) -> TargetLine[E]:
        """Create the pool or queue of one target."""

    @abstractmethod
    def _exchange(self, request: UpstreamRequest, downstream: Downstream) -> E:
        """Create the exchange for a request."""

    def ends(self, checks: Sequence[Stoppable]) -> None:
        """Take over the checks of its targets, which end with this engine."""
        self._checks = checks

    @property
    def open_connections(self) -> int:
        """The number of connections, busy and idle."""
        return sum(pool.open_connections for pool in self.pools)

    def samples(self, now: float) -> Iterator[Sample]:
        """Yield the metrics of the upstream. `now` is the loop's time."""
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
        """Send a request to one of the targets."""
        exchange = self._exchange(request, downstream)
        self._budget.request()
        # One target is the common case. It is never ejected.
        only = self._only
        pool = only if only is not None and only.health.is_up else self._balancer.choose(now, None, request.hash_key)
        if pool is None:
            self._loop.call_soon(downstream.refuse, self._nobody_is_well(now))
        else:
            pool.submit(exchange, now)
        return exchange

    def failed(self, exchange: E, refusal: Refusal, *, may_repeat: bool, unsent: bool = False) -> None:
        """Retry an exchange that failed before any byte of a response, or refuse it.

        `may_repeat`: the target can have seen the request, and an idempotent one can be sent again. `unsent`: nothing
        of it was written, so any request can. This method checks the number of retries and their budget.
        """
        failed_at = exchange.pool
        repeatable = unsent or (may_repeat and exchange.repeatable)
        if repeatable and exchange.tries <= self._retries:
            now = self._loop.time()
            pool = self._balancer.choose(now, failed_at, exchange.request.hash_key)
            if pool is not None and not self._budget.take():
                self._spent += 1
            elif pool is not None:
                self._retried += 1
                exchange.tries += 1
                pool.submit(exchange, now, fresh=pool is failed_at)
                return
        exchange.downstream.refuse(refusal)

    def close(self) -> None:
        """Close idle connections now, and busy ones when their requests end."""
        for checks in self._checks:
            checks.stop()
        for pool in self.pools:
            pool.close()

    def _nobody_is_well(self, now: float) -> Refusal:
        wait = ceil(self._balancer.wait(now))
        return Refusal("upstream_unavailable", f"no target of {self.name} is well", retry_after=max(1, wait))
