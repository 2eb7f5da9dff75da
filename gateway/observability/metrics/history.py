"""The traffic of the last fifteen minutes, sampled from the metrics for the console.

The ticker starts a sample every ten seconds. Requests cost nothing more: a sample reads the counts that exist anyway,
of all workers together. The history is bounded: a number of samples, each with a number of codes and targets.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

from gateway.observability.metrics.parser import cumulated
from gateway.observability.metrics.snapshot import Series, State, added
from gateway.observability.metrics.summary import growth, quantile, target_state
from gateway.samples import BUCKETS, OTHER, Histogram

PERIOD: Final = 10.0  # seconds between two samples
SAMPLES: Final = 90
_SHARE: Final = 100  # sampling takes at most a hundredth of the time
_MOST_CODES: Final = 12  # of one sample; the others are counted together
_MOST_TARGETS: Final = 64
_YOUNG: Final = 5.0  # seconds; rates over a shorter time are not useful
_WEBSOCKET: Final = "1xx"
_TARGET_UP: Final = "gateway_upstream_target_up"


class TargetTotals(NamedTuple):
    """The counts of one target since the start, and its state (`target_state`) now."""

    requests: float
    failures: float
    state: str
    busy: int
    waiting: int


class Totals(NamedTuple):
    """The counts of all workers since the start, and their gauges at `at`, in seconds since the epoch. `durations` and
    `lag` are histograms, `panics` upstreams, `out` the unavailable stores."""

    at: float
    statuses: Mapping[str, float]
    codes: Mapping[str, float]
    durations: Histogram
    lag: Histogram
    targets: Mapping[tuple[str, str], TargetTotals]
    panics: tuple[str, ...]
    out: tuple[str, ...]
    workers: int
    connections: int
    cpu: float
    memory: int
    version: str


class TrafficSample(NamedTuple):
    """The traffic in the `seconds` before `at`. `statuses` and `codes` are counts; percentiles are in seconds, None
    without requests. `targets` are names, `requests` and `states` their counts and states, in the same order."""

    at: float
    seconds: float
    statuses: Mapping[str, float]
    codes: Mapping[str, float]
    median: float | None
    p95: float | None
    p99: float | None
    targets: tuple[tuple[str, str], ...]
    requests: tuple[float, ...]
    failures: tuple[float, ...]
    states: tuple[str, ...]

    @property
    def total(self) -> float:
        """The number of requests."""
        return sum(self.statuses.values())

    @property
    def refused(self) -> float:
        """The number of refused requests."""
        return sum(self.codes.values())


class TrafficReport(NamedTuple):
    """The samples, oldest first. `rest` is the traffic after the last one. `latest` is that of the last seconds, for
    current rates; `now`, `cpu` (in cores) and `lag` (99th percentile of the event loop's delay) are current too."""

    samples: tuple[TrafficSample, ...]
    rest: TrafficSample
    latest: TrafficSample
    now: Totals
    cpu: float
    lag: float | None


class TrafficHistory:
    """Samples of the metrics that `read` returns. Requests to the routes in `left_out` do not count. `clock` returns
    seconds since the epoch."""

    def __init__(
        self,
        read: Callable[[], Awaitable[State]],
        *,
        left_out: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._left_out = frozenset(left_out)
        self._clock = clock
        self._samples: deque[TrafficSample] = deque(maxlen=SAMPLES)
        self._totals: deque[Totals] = deque(maxlen=2)  # at the last two samples
        self._due = 0.0
        self._sampling: asyncio.Task[None] | None = None

    def tick(self, now: float) -> None:
        """Start a sample when it is due. `now` is the loop's time."""
        if now >= self._due and self._sampling is None:
            self._due = now + PERIOD
            self._sampling = asyncio.get_running_loop().create_task(self.sample())

    def close(self) -> None:
        """Stop sampling."""
        self._due = float("inf")
        if self._sampling is not None:
            self._sampling.cancel()

    async def report(self) -> TrafficReport:
        """The samples, and the traffic since the last ones."""
        now = await self._now()
        before = next((each for each in reversed(self._totals) if now.at - each.at >= _YOUNG), None)
        before = before or (self._totals[0] if self._totals else now)
        rest = sample_between(self._totals[-1] if self._totals else now, now)
        rate = growth(before.cpu, now.cpu) / max(now.at - before.at, 1.0)
        lag = quantile(cumulated(_grown(before.lag, now.lag)), 0.99)
        return TrafficReport(tuple(self._samples), rest, sample_between(before, now), now, rate, lag)

    async def sample(self) -> None:
        """Take a sample of the time since the last one."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            now = await self._now()
            if self._totals:
                self._keep(sample_between(self._totals[-1], now))
            self._totals.append(now)
        finally:
            self._due = max(self._due, loop.time() + _SHARE * (loop.time() - started))
            self._sampling = None

    def _keep(self, sample: TrafficSample) -> None:
        if self._samples and self._samples[-1].targets == sample.targets:
            sample = sample._replace(targets=self._samples[-1].targets)  # the names take more memory than the counts
        self._samples.append(sample)

    async def _now(self) -> Totals:
        """The current totals. With many routes they take long, so a thread computes them."""
        state = await self._read()
        return await asyncio.to_thread(totals_of, state, self._left_out, self._clock())


def totals_of(state: State, left_out: frozenset[str], at: float) -> Totals:
    """Add up the counts of a state, without some routes."""
    statuses: dict[str, float] = {}
    codes: dict[str, float] = {}
    durations: Histogram = [0.0] * BUCKETS
    for labels, counts in state.requests.items():
        if labels.route in left_out:
            continue
        own = counts[:BUCKETS]
        number = sum(own)
        statuses[labels.status] = statuses.get(labels.status, 0.0) + number
        if labels.code:
            codes[labels.code] = codes.get(labels.code, 0.0) + number
        if labels.status != _WEBSOCKET:  # it lasts for as long as the client wants
            durations = added(durations, own)
    return _with_gauges(state.samples, at, statuses, codes, durations)


def _with_gauges(
    samples: Mapping[Series, float | Histogram],
    at: float,
    statuses: Mapping[str, float],
    codes: Mapping[str, float],
    durations: Histogram,
) -> Totals:
    def value(family: str, *labels: str) -> float:
        found = samples.get((family, labels), 0.0)
        return 0.0 if isinstance(found, list) else float(found)

    def labelled(family: str) -> list[tuple[str, ...]]:
        return sorted(labels for name, labels in samples if name == family)

    lag = samples.get(("gateway_event_loop_lag_seconds", ()), 0.0)
    return Totals(
        at,
        statuses,
        codes,
        durations,
        lag[:BUCKETS] if isinstance(lag, list) else [0.0] * BUCKETS,
        targets={(name, target): _target(value, name, target) for name, target in labelled(_TARGET_UP)},
        panics=tuple(name for (name,) in labelled("gateway_upstream_panic") if value("gateway_upstream_panic", name)),
        out=tuple(store for (store,) in labelled("gateway_store_up") if not value("gateway_store_up", store)),
        workers=int(value("gateway_workers")),
        connections=int(value("gateway_connections")),
        cpu=value("process_cpu_seconds_total"),
        memory=int(value("process_resident_memory_bytes")),
        version=", ".join(sorted({labels[0] for labels in labelled("gateway_build_info")})),
    )


def _target(value: Callable[..., float], name: str, target: str) -> TargetTotals:
    return TargetTotals(
        requests=value("gateway_upstream_requests_total", name, target),
        failures=value("gateway_upstream_failures_total", name, target),
        state=target_state(lambda family: value(family, name, target)),
        busy=int(value("gateway_upstream_connections", name, target, "busy")),
        waiting=int(value("gateway_upstream_waiting", name, target)),
    )


def sample_between(before: Totals, after: Totals) -> TrafficSample:
    """The traffic between two readings, bounded in codes and targets."""
    durations = cumulated(_grown(before.durations, after.durations))
    names = tuple(sorted(after.targets, key=lambda name: (after.targets[name].state in ("up", "unused"), name)))
    shown = names[:_MOST_TARGETS]
    old = [before.targets.get(name, TargetTotals(0, 0, "", 0, 0)) for name in shown]
    new = [after.targets[name] for name in shown]
    return TrafficSample(
        after.at,
        max(after.at - before.at, 1.0),
        _counts(before.statuses, after.statuses),
        _busiest(_counts(before.codes, after.codes)),
        median=quantile(durations, 0.5),
        p95=quantile(durations, 0.95),
        p99=quantile(durations, 0.99),
        targets=shown,
        requests=tuple(growth(one.requests, other.requests) for one, other in zip(old, new, strict=True)),
        failures=tuple(growth(one.failures, other.failures) for one, other in zip(old, new, strict=True)),
        states=tuple(each.state for each in new),
    )


def _counts(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    counts = {name: growth(before.get(name, 0.0), value) for name, value in after.items()}
    return {name: count for name, count in counts.items() if count}


def _busiest(codes: dict[str, float]) -> dict[str, float]:
    """The most frequent codes, and the others together."""
    order = sorted(codes, key=lambda code: (-codes[code], code))
    kept = {code: codes[code] for code in order[:_MOST_CODES]}
    rest = sum(codes[code] for code in order[_MOST_CODES:])
    return {**kept, OTHER: kept.get(OTHER, 0.0) + rest} if rest else kept


def _grown(before: Histogram, after: Histogram) -> Histogram:
    return [growth(one, other) for one, other in zip(before, after, strict=True)]
