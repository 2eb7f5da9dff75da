"""The traffic of the last fifteen minutes: rates between samples, sums of workers, and bounds."""

import asyncio
import tracemalloc
from dataclasses import dataclass, field

import pytest

from gateway.observability.metrics.history import PERIOD, SAMPLES, TrafficHistory, TrafficReport
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.metrics.request_counters import SIZE, Labels
from gateway.observability.metrics.shared_memory import SharedMetrics, WorkerSlot
from gateway.observability.metrics.snapshot import State
from gateway.observability.observer import Observer
from gateway.samples import OTHER
from gateway.settings.model import ObservabilitySettings
from tests.observability.requests import finished


@dataclass
class Source:
    """A source of metrics with a clock. `count` adds requests, `target` sets the counts of a target."""

    state: State = field(default_factory=lambda: State({}, {}))
    now: float = 1_000_000.0
    reads: int = 0

    def count(
        self, number: int, *, status: str = "2xx", code: str = "", route: str = "orders", bucket: int = 3
    ) -> None:
        counts = self.state.requests.setdefault(Labels(route, "GET", status, code), [0.0] * SIZE)
        counts[bucket] += number

    def target(self, name: str, requests: int, *, failing: bool = False, is_up: bool = True) -> None:
        values = {"requests_total": requests, "target_up": int(is_up), "target_failing": int(failing)}
        for family, value in values.items():
            self.state.samples[f"gateway_upstream_{family}", ("web", name)] = value

    async def read(self) -> State:
        self.reads += 1
        return State({labels: [*counts] for labels, counts in self.state.requests.items()}, dict(self.state.samples))

    def history(self, *left_out: str) -> TrafficHistory:
        return TrafficHistory(self.read, left_out=left_out, clock=lambda: self.now)

    async def sample(self, history: TrafficHistory) -> None:
        """Let ten seconds pass, and take a sample."""
        self.now += PERIOD
        await history.sample()


async def test_a_sample_counts_the_requests_since_the_one_before() -> None:
    source = Source()
    history = source.history()
    source.count(1000)
    await source.sample(history)
    source.count(40)
    source.count(10, status="4xx", code="forbidden", bucket=6)
    await source.sample(history)
    source.count(3)
    source.now += 1
    report = await history.report()
    (sample,) = report.samples
    assert (sample.statuses, sample.codes) == ({"2xx": 40, "4xx": 10}, {"forbidden": 10})
    assert (sample.total, sample.refused, sample.seconds) == (50, 10, PERIOD)
    assert sample.median is not None and sample.p99 is not None
    assert sample.median <= 0.001 < sample.p99, "the refused requests took longer"
    assert report.rest.total == 3
    assert (report.latest.total, report.latest.seconds) == (53, PERIOD + 1), "one second is too short for a rate"


async def test_a_gateway_that_was_started_again_has_no_negative_counts() -> None:
    source = Source()
    history = source.history()
    source.count(1000)
    await source.sample(history)
    source.state.requests.clear()
    source.count(7)
    await source.sample(history)
    assert (await history.report()).samples[0].total == 7


async def test_requests_to_the_routes_that_are_left_out_do_not_count() -> None:
    source = Source()
    history = source.history("operations.console")
    await source.sample(history)
    source.count(5, route="operations.console")
    source.count(2)
    await source.sample(history)
    assert (await history.report()).samples[0].total == 2


async def test_websockets_count_but_their_durations_do_not() -> None:
    source = Source()
    history = source.history()
    await source.sample(history)
    source.count(5, status="1xx", bucket=16)
    await source.sample(history)
    (sample,) = (await history.report()).samples
    assert (sample.total, sample.p99) == (5, None)


async def test_targets_have_their_share_and_their_state_at_each_time() -> None:
    source = Source()
    history = source.history()
    source.target("a", 0)
    source.target("b", 100)
    await source.sample(history)
    for requests, failing in ((10, False), (10, True)):
        source.target("b", 100 + requests, failing=failing)
        await source.sample(history)
    samples = (await history.report()).samples
    shown = [dict(zip(each.targets, zip(each.requests, each.states, strict=True), strict=True)) for each in samples]
    a, b = ("web", "a"), ("web", "b")
    assert shown == [{a: (0, "unused"), b: (10, "up")}, {a: (0, "unused"), b: (0, "failing")}]


async def test_fifteen_minutes_are_kept() -> None:
    source = Source()
    history = source.history()
    for _ in range(SAMPLES + 20):
        await source.sample(history)
    samples = (await history.report()).samples
    assert SAMPLES * PERIOD == 900
    assert [sample.at for sample in samples] == [source.now - PERIOD * ago for ago in reversed(range(SAMPLES))]


async def test_the_memory_is_bounded_whatever_is_counted() -> None:
    """Hundreds of targets and every code: less than one MiB."""
    source = Source()
    history = source.history()
    tracemalloc.start()
    try:
        for number in range(SAMPLES + 2):
            for code in range(60):
                source.count(number + code, status="4xx", code=f"code_{code}")
            for target in range(300):
                source.target(f"http://target-{target}.internal.example:8000", 1000 * number * (target + 1))
            await source.sample(history)
        source.state.requests.clear()
        source.state.samples.clear()
        await source.sample(history)
        await source.sample(history)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    samples = (await history.report()).samples
    assert used < 1 << 20, used
    assert max(len(sample.targets) for sample in samples) == 64
    assert max(len(sample.codes) for sample in samples) == 13
    busiest = samples[-3].codes
    assert OTHER in busiest and "code_59" in busiest and "code_0" not in busiest


async def test_the_history_is_that_of_all_workers_together() -> None:
    shared = SharedMetrics(2)
    observers = [Observer(ObservabilitySettings(access_log="off"), ["orders"]) for _ in range(2)]
    workers = [Metrics(observer, WorkerSlot(shared, number)) for number, observer in enumerate(observers)]
    history = TrafficHistory(workers[0].state)
    await history.sample()
    for observer, requests in zip(observers, (3, 4), strict=True):
        for _ in range(requests):
            observer.completed(finished())
    await history.sample()
    (sample,) = (await history.report()).samples
    assert sample.total == 7
    for worker in workers:
        worker.close()
    shared.close()


async def test_a_tick_samples_every_ten_seconds_and_reads_nothing_in_between() -> None:
    source = Source()
    history = source.history()
    for now in (100.0, 100.25, 105.0, 109.75):
        history.tick(now)
        await asyncio.wait_for(_idle(source, 1), 5)
    history.tick(10_000_000.0)
    await asyncio.wait_for(_idle(source, 2), 5)
    history.close()
    history.tick(20_000_000.0)
    await asyncio.sleep(0)
    assert source.reads == 2


async def _idle(source: Source, reads: int) -> None:
    while source.reads < reads:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("age", [0.0, 4.0, 6.0])
async def test_a_report_before_the_first_sample_has_rates_too(age: float) -> None:
    source = Source()
    history = source.history()
    await history.sample()
    source.count(12)
    source.now += age
    report: TrafficReport = await history.report()
    assert report.samples == ()
    assert report.latest.total == report.rest.total == 12
    assert report.latest.seconds == max(age, 1.0)
