"""Sends admitted requests to upstreams, with a forwarding plan for each route and an engine for each upstream."""

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gateway.gate.admission import Admission, RequestHead
from gateway.gate.session_cookies import own_cookies
from gateway.identity.assertions import Assertions
from gateway.identity.credentials import CredentialLines
from gateway.policy.builtin_routes import browsable_paths
from gateway.policy.route import Route
from gateway.proxy.balancer import hash_key_of
from gateway.proxy.final_recipient import FinalRecipient
from gateway.proxy.forward import ForwardPlan, upstream_request, websocket_request
from gateway.proxy.health_checks import HealthChecks
from gateway.proxy.interfaces import Downstream, Engine, Exchange
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.public_fields import UpstreamCookies
from gateway.proxy.tls import TlsContexts
from gateway.proxy.upstream import Upstream
from gateway.samples import Sample
from gateway.settings.model import UNSET, BalanceSettings, Settings, UpstreamSettings
from gateway.ticker import Ticker
from gateway.wire.fields import FieldRules
from gateway.wire.max_forwards import forwards_left


def import_engines(upstreams: Iterable[UpstreamSettings]) -> None:
    """Import the engines of these upstreams before requests arrive, because imports block the event loop."""
    if any(upstream.engine == "httpx" for upstream in upstreams):
        import gateway.proxy.httpx_engine.connection  # noqa: F401


def engine_of(
    settings: UpstreamSettings, *, loop: asyncio.AbstractEventLoop, ticker: Ticker, tls: ssl.SSLContext | None
) -> Engine:
    """Return the engine that the settings of an upstream select. `tls` is the context for its https targets."""
    engine: Engine
    if settings.engine == "httpx":
        # httpx takes 50 ms and 8 MiB, and few upstreams use it.
        from gateway.proxy.httpx_engine.connection import HttpxEngine

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


class Proxy:
    """The way from an admission to the upstream. Faces only call `open`."""

    def __init__(
        self,
        settings: Settings,
        routes: Iterable[Route],
        *,
        rules: FieldRules,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        tls: TlsContexts,
        assertions: Assertions | None = None,
        previous: "Proxy | None" = None,
    ) -> None:
        """`previous` is the replaced proxy. Upstreams with the same settings and TLS files keep their engines, and the
        assertions stay valid."""
        self._rules = rules
        self._upstreams = {name: _with_health_host(each, settings) for name, each in settings.upstreams.items()}
        self._tls = tls
        self._loop = loop
        self._ticker = ticker
        self._retired_counts: dict[tuple[str, tuple[str, ...]], float] = (
            {} if previous is None else previous._retired_counts
        )
        self.engines: Mapping[str, Engine] = {
            name: (previous.engine_for(upstream, tls) if previous else None)
            or engine_of(upstream, loop=loop, ticker=ticker, tls=tls.of(upstream))
            for name, upstream in self._upstreams.items()
        }
        # The counts of dropped cookies continue after a reload. The settings of cookies need a restart.
        self._own_cookies: dict[str, UpstreamCookies] = {} if previous is None else previous._own_cookies
        self._declare_cookies(settings)
        self._assertions: Assertions | None = previous._assertions if previous else assertions
        own_paths = browsable_paths(settings)
        self._plans = {
            route: (
                _plan(route, settings, self._assertions, self._own_cookies.get(route.upstream), own_paths),
                self.engines[route.upstream],
            )
            for route in routes
            if route.upstream is not None
        }

    def open(self, admission: Admission, downstream: Downstream, length: int | None, now: float) -> Exchange:
        """Send an admitted request. `length` is that of its body in bytes, None for a chunked body; `now` is the loop's
        time. Raises Refusal if the request must not be sent."""
        plan, engine = self._plans[admission.route]
        request = admission.request
        if request.fields.shape.has_conditional and _is_final_recipient(request):
            return FinalRecipient(admission, downstream, loop=self._loop, date=self._ticker.date)
        if request.websocket:
            return engine.open(websocket_request(admission, plan, self._rules), downstream, now)
        return engine.open(upstream_request(admission, plan, self._rules, length), downstream, now)

    def samples(self) -> Iterator[Sample]:
        """Yield the metrics of all upstreams. The counts of removed upstreams stay."""
        now = self._loop.time()
        for engine in self.engines.values():
            yield from engine.samples(now)
        for cookies in self._own_cookies.values():
            yield from cookies.samples()
        for (family, labels), count in self._retired_counts.items():
            yield Sample(family, labels, count)

    def _declare_cookies(self, settings: Settings) -> None:
        own = own_cookies(settings)
        if own is not None:
            for name in settings.upstreams:
                self._own_cookies.setdefault(name, UpstreamCookies(name, own))

    def engine_for(self, upstream: UpstreamSettings, tls: TlsContexts) -> Engine | None:
        """Return the engine of an upstream with exactly these settings and TLS files, or None."""
        same = self._upstreams.get(upstream.name) == upstream and self._tls.agree(tls, upstream)
        return self.engines[upstream.name] if same else None

    def close_unless_used_by(self, after: "Proxy") -> None:
        """Close the engines that the new proxy does not use."""
        used = set(after.engines.values())
        for engine in self.engines.values():
            if engine not in used:
                self._keep_counts(engine)
                engine.close()

    def _keep_counts(self, engine: Engine) -> None:
        for family, labels, value in engine.samples(0.0):
            if family.endswith("_total") and not isinstance(value, list):
                self._retired_counts[family, labels] = self._retired_counts.get((family, labels), 0) + value

    def close(self) -> None:
        """Close the connections to all upstreams."""
        for engine in self.engines.values():
            engine.close()


def _with_health_host(upstream: UpstreamSettings, settings: Settings) -> UpstreamSettings:
    health, host = upstream.health, settings.health_host(upstream)
    if health is None or host == health.host:
        return upstream
    return replace(upstream, health=replace(health, host=host))


def _is_final_recipient(request: RequestHead) -> bool:
    return forwards_left(request.method, request.fields) == 0


def _plan(
    route: Route,
    settings: Settings,
    assertions: Assertions | None,
    cookies: UpstreamCookies | None,
    own_paths: frozenset[bytes],
) -> ForwardPlan:
    """Build the plan from the route's own limits, or else from those of its upstream and of the server."""
    own = route.settings
    assert own is not None and route.upstream is not None
    upstream = settings.upstreams[route.upstream]
    return ForwardPlan(
        route,
        max_body=settings.server.max_body if own.max_body is None else own.max_body,
        response_timeout=upstream.response_timeout if own.response_timeout is UNSET else own.response_timeout,
        preserve_host=upstream.preserve_host,
        rewrites_responses=upstream.rewrite_responses,
        method_override=upstream.method_override,
        assertion=None if assertions is None else assertions.for_upstream(upstream.name),
        hash_key=hash_key_of(upstream.balance) if isinstance(upstream.balance, BalanceSettings) else None,
        credential_lines=CredentialLines.of(settings.identity.headers),
        own_cookies=cookies,
        own_paths=own_paths,
    )
