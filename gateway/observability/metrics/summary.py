"""A summary of two readings of the metrics: rates between them, and current values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.observability.metrics.parser import Cumulated, Reading
from gateway.observability.metrics.request_counters import Labels
from gateway.observability.metrics.snapshot import Series

ALL: Final = slice(None)
_ERROR: Final = "5xx"
_LAG: Final = ("gateway_event_loop_lag_seconds", ())


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
    """One target of an upstream. `state` is that of `target_state`. `failures` and `requests` are per second."""

    upstream: str
    target: str
    state: str
    busy: int
    idle: int
    waiting: int
    failures: float
    requests: float = 0.0


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
        for labels, rate in _rates(self._before, self._after, self._seconds):
            statuses[labels.status] = statuses.get(labels.status, 0.0) + rate
            if labels.code:
                codes[labels.code] = codes.get(labels.code, 0.0) + rate
        routes = route_rates(self._before, self._after, self._seconds)
        shown = sorted(routes, key=lambda route: (-routes[route].requests, route))[part]
        return Summary(
            seconds=self._seconds,
            version=", ".join(sorted({labels[0] for labels, _ in self._now("gateway_build_info")})),
            workers=int(self._value("gateway_workers")),
            connections=int(self._value("gateway_connections")),
            requests=sum(statuses.values()),
            statuses=statuses,
            codes=codes,
            routes=route_rows(self._before, self._after, shown, routes),
            route_count=len(routes),
            targets=[
                self._target(upstream, target)
                for (upstream, target), _ in sorted(self._now("gateway_upstream_target_up"))
            ],
            cpu=self._rate("process_cpu_seconds_total"),
            memory=int(self._value("process_resident_memory_bytes")),
            lag=_Quantiles(self._before.histograms(()), self._after.histograms(())).of(_LAG, 0.99),
            out=sorted(labels[0] for labels, up in self._now("gateway_store_up") if not up),
        )

    def _now(self, family: str) -> Iterator[tuple[tuple[str, ...], float]]:
        return ((labels, value) for (name, labels), value in self._after.values.items() if name == family)

    def _value(self, family: str, *labels: str) -> float:
        return self._after.values.get((family, labels), 0.0)

    def _rate(self, family: str, *labels: str) -> float:
        before = self._before.values.get((family, labels), 0.0)
        return growth(before, self._value(family, *labels)) / self._seconds

    def _target(self, upstream: str, target: str) -> TargetRow:
        which = (upstream, target)
        return TargetRow(
            upstream,
            target,
            target_state(lambda family: self._value(family, *which)),
            busy=int(self._value("gateway_upstream_connections", *which, "busy")),
            idle=int(self._value("gateway_upstream_connections", *which, "idle")),
            waiting=int(self._value("gateway_upstream_waiting", *which)),
            failures=self._rate("gateway_upstream_failures_total", *which),
            requests=self._rate("gateway_upstream_requests_total", *which),
        )


def target_state(value: Callable[[str], float]) -> str:
    """The state of a target: `up`, `down` (by health checks), `ejected`, `failing` (not ejected because it is the last
    usable one), or `unused` (up, but no request was sent to it). `value` returns the target's value of a family."""
    if value("gateway_upstream_target_ejected"):
        return "ejected"
    if not value("gateway_upstream_target_up"):
        return "down"
    if value("gateway_upstream_target_failing"):
        return "failing"
    is_used = value("gateway_upstream_requests_total") or value("gateway_upstream_failures_total")
    return "up" if is_used else "unused"


def route_rates(before: Reading, after: Reading, seconds: float) -> "dict[str, RouteRates]":
    """The rates of all routes with requests."""
    routes: dict[str, RouteRates] = {}
    for labels, rate in _rates(before, after, seconds):
        routes.setdefault(labels.route, RouteRates()).add(labels, rate)
    return routes


def route_rows(
    before: Reading, after: Reading, names: Sequence[str], rates: "Mapping[str, RouteRates]"
) -> list[RouteRow]:
    """Rows of some routes. Durations of other routes are not computed."""
    quantiles = _Quantiles(before.histograms(names), after.histograms(names))
    return [_row(name, rates.get(name) or RouteRates(), quantiles) for name in names]


def _rates(before: Reading, after: Reading, seconds: float) -> Iterator[tuple[Labels, float]]:
    for labels, number in after.requests.items():
        yield labels, growth(before.requests.get(labels, 0.0), number) / seconds


class RouteRates:
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


def _row(route: str, rates: RouteRates, quantiles: "_Quantiles") -> RouteRow:
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
        """The quantile of the observations between the readings."""
        before = self.before.get(series, {})
        return quantile(
            {bound: growth(before.get(bound, 0.0), value) for bound, value in self.after.get(series, {}).items()}, share
        )


def quantile(buckets: Cumulated, share: float) -> float | None:
    """The quantile as computed by Prometheus' histogram_quantile, which assumes an even distribution in a bucket; None
    without observations."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank, lower, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds[:-1]:
        if buckets[bound] >= rank:
            return lower + (bound - lower) * (rank - below) / (buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return lower


def growth(before: float, now: float) -> float:
    """The growth of a counter. A smaller value means that the counter restarted at 0 with the gateway."""
    return now - before if now >= before else now
