"""The metrics shared by workers: sums never decrease."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observability.metrics.metrics import Metrics
from gateway.observability.metrics.request_counters import SIZE, Labels
from gateway.observability.metrics.shared_memory import SharedMetrics, WorkerSlot
from gateway.observability.metrics.snapshot import State, counted, decoded, encoded, state_of, together
from gateway.samples import BOUNDS, BUCKETS, OTHER, Durations, LabeledCounter, Sample
from gateway.settings.model import ObservabilitySettings
from tests.observability.requests import complete, observing
from tests.observability.test_metrics import Samples, requests, samples_of, value
from tests.support.waiting import until

LABELS = st.builds(Labels, st.sampled_from(["a", "b", ""]), st.just("GET"), st.just("2xx"), st.sampled_from(["", "x"]))
COUNT = st.integers(0, 1 << 40)
COUNTS = st.tuples(COUNT, COUNT).map(lambda two: [two[0] + slot * two[1] for slot in range(SIZE)])
COUNTERS = st.dictionaries(
    st.tuples(st.just("gateway_logins_total"), st.tuples(st.text(max_size=3))), st.integers(0, 1 << 40)
)
STATES = st.builds(State, st.dictionaries(LABELS, COUNTS), COUNTERS)


@given(STATES)
def test_a_state_arrives_as_it_was_sent(state: State) -> None:
    assert decoded(b"".join(encoded(state))) == state


def test_a_large_state_is_sent_in_pieces() -> None:
    state = State({Labels(f"r{n}", "GET", "2xx", ""): [n] * SIZE for n in range(1000)}, {})
    pieces = list(encoded(state))
    assert len(pieces) > 4
    assert decoded(b"".join(pieces)) == state


@given(STATES, STATES, STATES)
def test_adding_up_does_not_depend_on_the_order(one: State, two: State, three: State) -> None:
    assert together([one, two, three]) == together([three, two, one]) == together([together([one, two]), three])


@pytest.mark.parametrize(
    ("family", "labels", "values", "whole"),
    [
        ("gateway_connections", (), (3, 4), 7),
        ("gateway_upstream_retries_total", ("web",), (3, 4), 7),
        ("gateway_store_up", ("redis",), (1, 0), 0),
        ("gateway_upstream_target_ejected", ("web", "http://a:1"), (0, 1), 1),
        ("gateway_build_info", ("1", "3.11", "native"), (1, 1), 1),
        ("process_start_time_seconds", (), (20.0, 10.0), 10.0),
    ],
)
def test_samples_of_workers_are_combined(
    family: str, labels: tuple[str, ...], values: tuple[float, ...], whole: float
) -> None:
    states = [state_of((), [Sample(family, labels, one)]) for one in values]
    assert together(states).samples == {(family, labels): whole}


def test_of_a_worker_that_has_ended_counts_stay_and_gauges_do_not() -> None:
    lag = Durations("gateway_event_loop_lag_seconds")
    lag.observe(0.002)
    samples = [Sample("gateway_connections", (), 3), Sample("gateway_logins_total", ("success",), 2), *lag.samples()]
    kept = counted(state_of((), samples)).samples
    assert {series[0] for series in kept} == {"gateway_logins_total", "gateway_event_loop_lag_seconds"}


def test_a_labeled_counter_is_bounded_for_any_labels() -> None:
    tally = LabeledCounter("gateway_logins_total")
    for number in range(5000):
        tally.add(str(number))
    counts = {labels: count for _, labels, count in tally.samples()}
    assert len(counts) == 1001
    assert counts[(OTHER,)] == 4000


@given(st.lists(st.floats(-1, 100)))
def test_durations_are_a_histogram(seconds: list[float]) -> None:
    durations = Durations("gateway_event_loop_lag_seconds")
    for one in seconds:
        durations.observe(one)
    ((_, _, counts),) = durations.samples()
    assert isinstance(counts, list)
    assert sum(counts[:BUCKETS]) == len(seconds)
    assert counts[-1] == pytest.approx(sum(max(one, 0.0) for one in seconds))
    assert sum(counts[: len(BOUNDS)]) == sum(one <= BOUNDS[-1] for one in seconds)


# ---- several workers in this process


class WorkerGroup:
    """Workers with shared metrics, as the supervisor creates them."""

    def __init__(self, slots: int) -> None:
        self.shared = SharedMetrics(slots)
        self.workers = [self.worker(slot) for slot in self.shared.slots]

    def worker(self, slot: int):  # type: ignore[no-untyped-def]
        observer = observing(ObservabilitySettings(access_log="off"), None)
        return observer, Metrics(observer, WorkerSlot(self.shared, slot))

    def serve(self, slot: int, times: int = 1) -> None:
        for _ in range(times):
            complete(self.workers[slot][0])

    async def scrape(self, slot: int) -> Samples:
        return samples_of((await self.workers[slot][1].page()).decode())

    async def served(self, slot: int) -> float:
        return requests(await self.scrape(slot), "orders", "GET", "2xx")

    def kill(self, slot: int) -> None:
        """Like `kill -9`, without a final update."""
        asyncio.get_running_loop().remove_reader(self.shared.wake_socket(slot))
        self.shared.release(slot)

    def replace(self, slot: int) -> None:
        self.workers[slot] = self.worker(slot)

    def close(self) -> None:
        for _, metrics in self.workers:
            metrics.close()
        self.shared.close()


@pytest.fixture
async def group() -> "Iterator[WorkerGroup]":  # type: ignore[misc]
    group = WorkerGroup(3)
    yield group
    group.close()


async def test_every_worker_reports_the_sum_of_all(group: WorkerGroup) -> None:
    for slot, times in enumerate((5, 7, 11)):
        group.serve(slot, times)
    assert [await group.served(slot) for slot in range(3)] == [23, 23, 23]
    group.serve(1)
    assert [await group.served(slot) for slot in range(3)] == [24, 24, 24]
    assert value(await group.scrape(0), "gateway_workers") == 3


async def test_a_worker_that_is_killed_and_replaced_takes_no_count_back(group: WorkerGroup) -> None:
    for slot in range(3):
        group.serve(slot, 10)
    assert await group.served(1) == 30
    group.kill(1)
    assert await group.served(0) == 30
    assert value(await group.scrape(0), "gateway_workers") == 2
    group.replace(1)
    assert [await group.served(slot) for slot in range(3)] == [30, 30, 30]
    group.serve(1, 5)
    assert [await group.served(slot) for slot in range(3)] == [35, 35, 35]
    group.kill(1)
    group.replace(1)
    assert await group.served(2) == 35


async def test_reported_counts_persist_when_their_worker_is_killed_at_once(group: WorkerGroup) -> None:
    group.serve(2, 9)
    assert await group.served(2) == 9
    group.kill(2)
    assert await group.served(0) == 9


async def test_a_worker_that_does_not_answer_contributes_its_last_state(group: WorkerGroup) -> None:
    group.serve(1, 4)
    assert await group.served(0) == 4
    asyncio.get_running_loop().remove_reader(group.shared.wake_socket(1))  # it is busy
    group.serve(1, 100)
    group.serve(0, 1)
    assert await group.served(0) == 5


async def test_many_scrapes_at_once_all_see_everything(group: WorkerGroup) -> None:
    for slot in range(3):
        group.serve(slot, 10)
    scraped = await asyncio.gather(*(group.served(number % 3) for number in range(30)))
    assert set(scraped) == {30}


async def test_counts_are_written_regularly_without_a_request(group: WorkerGroup) -> None:
    group.serve(0, 3)
    before = group.shared.write_count(0)
    group.workers[0][1].tick(asyncio.get_running_loop().time() + 10)
    await until(lambda: group.shared.write_count(0) != before)
    state = group.shared.read(0)
    assert state is not None
    assert sum(sum(counts[:BUCKETS]) for counts in state.requests.values()) == 3


async def test_a_reader_never_sees_half_a_state(group: WorkerGroup) -> None:
    """A thread writes while others read."""
    stop, torn = False, 0

    def write() -> None:
        number = 0
        while not stop:
            number += 1
            group.shared.write(1, State({Labels(f"r{n}", "GET", "2xx", ""): [number] * SIZE for n in range(40)}, {}))

    writing = asyncio.create_task(asyncio.to_thread(write))
    while group.shared.write_count(1) < 100:
        state = await asyncio.to_thread(group.shared.read, 1)
        torn += state is not None and len({counts[0] for counts in state.requests.values()}) > 1
    stop = True
    await writing
    assert torn == 0
