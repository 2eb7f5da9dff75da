"""A summary of two readings of the metrics: rates between them, and current values."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from gateway.observability.metrics.parser import Cumulated, Reading
from gateway.observability.metrics.request_counters import Labels
from gateway.observability.metrics.snapshot import Series

ALL: Final = slice(None)
_ERROR: Final = "5xx"


class RouteRow(NamedTuple):
    """One route. `requests`, `errors` (5xx) and `refused` (by the gateway) are per second. The others are in seconds,
    or None without requests: median, 99th percentile, and 99th percentile of the upstream's part."""

    route: str
    requests: float
    errors: float
    refused: float
    median: float | None
    slowest: float | None
    upstream: float | None


class TargetRow(NamedTuple):
    """One target of an upstream. `state` is `up`, `down` (by health checks), `ejected`, or `failing` (not ejected
    because it is the last usable one). `failures` is per second."""

    upstream: str
    target: str
    state: str
    busy: int
    idle: int
    waiting: int
    failures: float


class Summary(NamedTuple):
    """`seconds` is the time between the readings. `statuses` and `codes` (of refusals) are per second, `cpu` is in
    cores, `memory` in bytes, `lag` (of the event loop) in seconds; `out` lists the unavailable stores."""

    seconds: float
    version: str
    workers: int
    connections: int
    requests: float
    statuses: dict[str, float]
    codes: dict[str, float]
    routes: list[RouteRow]
    route_count: int
    targets: list[TargetRow]
    cpu: float
    memory: int
    lag: float | None
    out: list[str]

    def document(self) -> dict[str, Any]:
        """The summary as JSON values."""
        rows = {"routes": [row._asdict() for row in self.routes], "targets": [row._asdict() for row in self.targets]}
        return {**self._asdict(), **rows}


def summary_of(before: Reading, after: Reading, seconds: float, part: slice = ALL) -> Summary:
    """The difference of two readings. `part` selects routes, busiest first; `route_count` counts them all."""
    return _Comparison(before, after, seconds).summary(part)


class _Comparison:
    """Compares two readings in one pass over all series, because there can be tens of thousands."""

    def __init__(self, before: Reading, after: Reading, seconds: float) -> None:
        self._before = before
        self._after = after
        self._seconds = seconds

    def summary(self, part: slice) -> Summary:
        statuses: dict[str, float] = {}
        codes: dict[str, float] = {}
        routes: dict[str, _RouteRates] = {}
        for labels, number in self._after.requests.items():
            rate = _growth(self._before.requests.get(labels, 0.0), number) / self._seconds
            statuses[labels.status] = statuses.get(labels.status, 0.0) + rate
            if labels.code:
                codes[labels.code] = codes.get(labels.code, 0.0) + rate
            routes.setdefault(labels.route, _RouteRates()).add(labels, rate)
        shown = sorted(routes, key=lambda route: (-routes[route].requests, route))[part]
        quantiles = _Quantiles(self._before.histograms(shown), self._after.histograms(shown))
        return Summary(
            seconds=self._seconds,
            version=", ".join(sorted({labels[0] for labels, _ in self._now("gateway_build_info")})),
            workers=int(self._value("gateway_workers")),
            connections=int(self._value("gateway_connections")),
            requests=sum(statuses.values()),
            statuses=statuses,
            codes=codes,
            routes=[_row(route, routes[route], quantiles) for route in shown],
            route_count=len(routes),
            targets=[
                self._target(upstream, target)
                for (upstream, target), _ in sorted(self._now("gateway_upstream_target_up"))
            ],
            cpu=self._rate("process_cpu_seconds_total"),
            memory=int(self._value("process_resident_memory_bytes")),
            lag=quantiles.of(("gateway_event_loop_lag_seconds", ()), 0.99),
            out=sorted(labels[0] for labels, up in self._now("gateway_store_up") if not up),
        )

    def _now(self, family: str) -> Iterator[tuple[tuple[str, ...], float]]:
        return ((labels, value) for (name, labels), value in self._after.values.items() if name == family)

    def _value(self, family: str, *labels: str) -> float:
        return self._after.values.get((family, labels), 0.0)

    def _rate(self, family: str, *labels: str) -> float:
        before = self._before.values.get((family, labels), 0.0)
        return _growth(before, self._value(family, *labels)) / self._seconds

    def _target(self, upstream: str, target: str) -> TargetRow:
        which = (upstream, target)
        state = "up" if self._value("gateway_upstream_target_up", *which) else "down"
        if self._value("gateway_upstream_target_ejected", *which):
            state = "ejected"
        elif state == "up" and self._value("gateway_upstream_target_failing", *which):
            state = "failing"
        return TargetRow(
            upstream,
            target,
            state,
            busy=int(self._value("gateway_upstream_connections", *which, "busy")),
            idle=int(self._value("gateway_upstream_connections", *which, "idle")),
            waiting=int(self._value("gateway_upstream_waiting", *which)),
            failures=self._rate("gateway_upstream_failures_total", *which),
        )


class _RouteRates:
    """The rates of one route per second."""

    __slots__ = ("errors", "refused", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.refused = 0.0

    def add(self, labels: Labels, rate: float) -> None:
        self.requests += rate
        if labels.status == _ERROR:
            self.errors += rate
        if labels.code:
            self.refused += rate


def _row(route: str, rates: _RouteRates, quantiles: "_Quantiles") -> RouteRow:
    return RouteRow(
        route,
        rates.requests,
        rates.errors,
        rates.refused,
        median=quantiles.of(("gateway_request_duration_seconds", (route,)), 0.5),
        slowest=quantiles.of(("gateway_request_duration_seconds", (route,)), 0.99),
        upstream=quantiles.of(("gateway_upstream_duration_seconds", (route,)), 0.99),
    )


class _Quantiles(NamedTuple):
    before: Mapping[Series, Cumulated]
    after: Mapping[Series, Cumulated]

    def of(self, series: Series, share: float) -> float | None:
        """The quantile as computed by Prometheus' histogram_quantile, which assumes an even distribution in a
        bucket."""
        before = self.before.get(series, {})
        buckets = {bound: _growth(before.get(bound, 0.0), value) for bound, value in self.after.get(series, {}).items()}
        bounds = sorted(buckets)
        if not bounds or not buckets[bounds[-1]]:
            return None
        rank, lower, below = share * buckets[bounds[-1]], 0.0, 0.0
        for bound in bounds[:-1]:
            if buckets[bound] >= rank:
                return lower + (bound - lower) * (rank - below) / (buckets[bound] - below)
            lower, below = bound, buckets[bound]
        return lower


def _growth(before: float, now: float) -> float:
    """The growth of a counter. A smaller value means that the counter restarted at 0 with the gateway."""
    return now - before if now >= before else now
