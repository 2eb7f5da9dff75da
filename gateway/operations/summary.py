"""What a person wants to see at a glance, made of two readings of the metrics page: rates, and how things are now."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gateway.operations.reading import Labels, Samples

_NONE: Final = ""
_ERROR: Final = "5xx"


class RouteRow(NamedTuple):
    """One route. `requests`, `errors` (5xx) and `refused` (by the gateway) are by the second; the others are seconds,
    None where there was no request: the median and the slowest of a hundred, and of those the upstream's part."""

    route: str
    requests: float
    errors: float
    refused: float
    median: float | None
    slowest: float | None
    upstream: float | None


class TargetRow(NamedTuple):
    """One target of an upstream. `state` is `up`, `down` (by health checks), `ejected`, or `failing` (not ejected
    because it is the last usable one); `failures` by the second."""

    upstream: str
    target: str
    state: str
    busy: int
    idle: int
    waiting: int
    failures: float


class Summary(NamedTuple):
    """`seconds` lie between the two readings. `statuses` and `codes` (of refusals) are by the second, `cpu` in cores,
    `memory` in bytes, `lag` the event loop's in seconds; `out` are the stores that cannot be used."""

    seconds: float
    version: str
    workers: int
    connections: int
    requests: float
    statuses: dict[str, float]
    codes: dict[str, float]
    routes: list[RouteRow]
    targets: list[TargetRow]
    cpu: float
    memory: int
    lag: float | None
    out: list[str]

    def document(self) -> dict[str, Any]:
        """For a program."""
        rows = {"routes": [row._asdict() for row in self.routes], "targets": [row._asdict() for row in self.targets]}
        return {**self._asdict(), **rows}


def summary_of(before: Samples, after: Samples, seconds: float) -> Summary:
    """What happened in between."""
    reading = _Reading(before, after, seconds)
    versions = [dict(labels)["version"] for labels, _ in reading.now("gateway_build_info")]
    return Summary(
        seconds=seconds,
        version=", ".join(sorted(set(versions))),
        workers=int(reading.total("gateway_workers")),
        connections=int(reading.total("gateway_connections")),
        requests=reading.rate("gateway_requests_total"),
        statuses=reading.rates("gateway_requests_total", "status"),
        codes={code: rate for code, rate in reading.rates("gateway_requests_total", "code").items() if code},
        routes=sorted(map(reading.route, reading.values("gateway_requests_total", "route")), key=_busiest_first),
        targets=[reading.target(*pair) for pair in reading.targets()],
        cpu=reading.rate("process_cpu_seconds_total"),
        memory=int(reading.total("process_resident_memory_bytes")),
        lag=reading.quantile("gateway_event_loop_lag_seconds", 0.99),
        out=sorted(dict(labels)["store"] for labels, up in reading.now("gateway_store_up") if not up),
    )


def _busiest_first(row: RouteRow) -> tuple[float, str]:
    return -row.requests, row.route


class _Reading:
    def __init__(self, before: Samples, after: Samples, seconds: float) -> None:
        self._before = before
        self._after = after
        self._seconds = seconds
        self._by_name: dict[str, list[tuple[Labels, float]]] = {}
        for (name, labels), value in after.items():
            self._by_name.setdefault(name, []).append((labels, value))

    def now(self, name: str, **wanted: str) -> Iterator[tuple[Labels, float]]:
        asked = wanted.items()
        return ((labels, value) for labels, value in self._by_name.get(name, ()) if asked <= dict(labels).items())

    def total(self, name: str, **wanted: str) -> float:
        return sum(value for _, value in self.now(name, **wanted))

    def values(self, name: str, label: str) -> list[str]:
        return sorted({dict(labels)[label] for labels, _ in self.now(name)})

    def rate(self, name: str, **wanted: str) -> float:
        return sum(self._grown(name, labels, value) for labels, value in self.now(name, **wanted)) / self._seconds

    def rates(self, name: str, label: str) -> dict[str, float]:
        return {value: self.rate(name, **{label: value}) for value in self.values(name, label)}

    def quantile(self, name: str, share: float, **wanted: str) -> float | None:
        """As Prometheus' histogram_quantile: within a bucket everything is taken to lie evenly."""
        buckets: dict[float, float] = {}
        for labels, value in self.now(f"{name}_bucket", **wanted):
            bound = float(dict(labels)["le"])
            buckets[bound] = buckets.get(bound, 0) + self._grown(f"{name}_bucket", labels, value)
        bounds = sorted(buckets)
        if not bounds or not buckets[bounds[-1]]:
            return None
        rank, lower, below = share * buckets[bounds[-1]], 0.0, 0.0
        for bound in bounds[:-1]:
            if buckets[bound] >= rank:
                return lower + (bound - lower) * (rank - below) / (buckets[bound] - below)
            lower, below = bound, buckets[bound]
        return lower

    def route(self, name: str) -> RouteRow:
        refused = sum(
            self._grown("gateway_requests_total", labels, value)
            for labels, value in self.now("gateway_requests_total", route=name)
            if dict(labels)["code"]
        )
        return RouteRow(
            route=name,
            requests=self.rate("gateway_requests_total", route=name),
            errors=self.rate("gateway_requests_total", route=name, status=_ERROR),
            refused=refused / self._seconds,
            median=self.quantile("gateway_request_duration_seconds", 0.5, route=name),
            slowest=self.quantile("gateway_request_duration_seconds", 0.99, route=name),
            upstream=self.quantile("gateway_upstream_duration_seconds", 0.99, route=name),
        )

    def targets(self) -> list[tuple[str, str]]:
        known = (dict(labels) for labels, _ in self.now("gateway_upstream_target_up"))
        return sorted((labels["upstream"], labels["target"]) for labels in known)

    def target(self, upstream: str, target: str) -> TargetRow:
        which = {"upstream": upstream, "target": target}
        state = "up" if self.total("gateway_upstream_target_up", **which) else "down"
        if self.total("gateway_upstream_target_ejected", **which):
            state = "ejected"
        elif state == "up" and self.total("gateway_upstream_target_failing", **which):
            state = "failing"
        return TargetRow(
            upstream,
            target,
            state,
            busy=int(self.total("gateway_upstream_connections", **which, state="busy")),
            idle=int(self.total("gateway_upstream_connections", **which, state="idle")),
            waiting=int(self.total("gateway_upstream_waiting", **which)),
            failures=self.rate("gateway_upstream_failures_total", **which),
        )

    def _grown(self, name: str, labels: Labels, value: float) -> float:
        """A counter that is less than it was has begun anew: the gateway was started again."""
        before = self._before.get((name, labels), 0.0)
        return value - before if value >= before else value
