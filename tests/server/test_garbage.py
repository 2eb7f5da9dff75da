"""Garbage collection delays no client, and still finds all garbage."""

import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.observability.metrics.metrics import resident_or_peak
from gateway.policy.loader import load_configuration
from gateway.server.garbage import LITTLE, MUCH, PAUSE, QUIET, STEP, Collector, return_free_memory

MIB = 1024 * 1024
SIZE = 40 * MIB  # Of a process in which `MUCH` exceeds the relative threshold.
LARGE = 400 * MIB  # Of a process in which it does not.


class SelfReference:
    """An object that only the garbage collector frees, because it references itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Collections take no time, so none is delayed by the previous one.
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.collect()
    gc.freeze()  # a reload has unfrozen the objects of pytest (tests/conftest.py)


class Process:
    """The process as a collector sees it: its size, its requests, and whether one is in progress."""

    def __init__(self, size: int = SIZE, *, serving: bool = True) -> None:
        self.size = size
        self.serving = serving
        self._count = 0

    def begin(self) -> None:
        self._count += 1

    def count(self) -> int:
        self._count += 1
        return self._count

    def collector(self) -> Collector:
        """A collector that has just run a full collection."""
        collector = Collector(lambda: self.serving, self.count, lambda: self.size)
        collector.collect_and_freeze(0.0)
        return collector


def grow_old(collector: Collector, now: float) -> list[object]:
    """Create objects that survive a step, and tick."""
    kept: list[object] = [[] for _ in range(3 * STEP)]
    collector.tick(now)
    return kept


def old_cycle(collector: Collector) -> "weakref.ref[SelfReference]":
    """A cycle that became garbage after it was frozen."""
    cycle = SelfReference()
    grow_old(collector, 1.0)
    return weakref.ref(cycle)


# ---- new objects


def test_a_tick_collects_the_objects_of_unfinished_steps() -> None:
    process = Process()
    collector = process.collector()
    kept: list[list[object]] = [[] for _ in range(STEP + 10)]  # a step is complete: the tick collects the rest
    knots = [weakref.ref(SelfReference()) for _ in range(50)]
    collector.tick(1.0)
    assert kept
    assert not any(cycle() for cycle in knots)


def test_a_few_large_objects_are_found_as_well() -> None:
    """Fifty objects are less than a step, but each can hold megabytes."""
    process = Process()
    collector = process.collector()
    knots = [weakref.ref(SelfReference()) for _ in range(50)]
    process.size += LITTLE
    collector.tick(1.0)
    assert all(cycle() for cycle in knots)
    process.size += 1
    collector.tick(1.25)
    assert not any(cycle() for cycle in knots)


def test_a_hundred_thousand_records_are_searched_in_small_steps() -> None:
    longest, begun, steps = 0.0, 0.0, 0

    def watch(phase: str, info: dict[str, int]) -> None:
        nonlocal longest, begun, steps
        if phase == "start":
            begun = time.thread_time()
        else:
            longest, steps = max(longest, time.thread_time() - begun), steps + 1
            assert info["generation"] < 2

    collector = Process().collector()
    gc.callbacks.append(watch)
    try:
        records = {}
        for number in range(100_000):
            records[number] = ([number], {"roles": [number]})
            if number % 1000 == 0:
                collector.tick(1.0)
    finally:
        gc.callbacks.remove(watch)
    print(f"\n{steps} steps, the longest {longest * 1e3:.1f} ms")
    assert steps >= len(records) // STEP


# ---- all objects


def test_old_garbage_is_found_while_no_request_is_served() -> None:
    process = Process()
    collector = process.collector()
    gone = old_cycle(collector)
    for now in (2.0, PAUSE + 1, PAUSE + 5):
        collector.tick(now)
        assert gone() is not None, "a request is being served, or it is too soon"
    process.serving = False
    collector.tick(PAUSE + 10)
    assert gone() is None


def test_a_moment_between_two_requests_is_not_used_for_it() -> None:
    """A full collection takes 40 ms or more, and the next request arrives in less than one."""
    process = Process(serving=False)
    collector = process.collector()
    gone = old_cycle(collector)
    for quarter in range(20):
        process.begin()
        collector.tick(PAUSE + quarter / 4)
        assert gone() is not None, "no request is being served at this moment, but there was one since the last tick"
    collector.tick(PAUSE + 5.0)
    assert gone() is not None, "too soon after the last request"
    collector.tick(PAUSE + 5.0 + QUIET)
    assert gone() is None


def test_a_process_that_has_grown_waits_for_a_quiet_second_only() -> None:
    process = Process(serving=False)
    collector = process.collector()
    gone = old_cycle(collector)
    process.size += LITTLE + 1
    process.begin()
    collector.tick(2.0)
    assert gone() is not None
    collector.tick(2.0 + QUIET)
    assert gone() is None


@pytest.mark.parametrize(("size", "much"), [(SIZE, MUCH), (LARGE, LARGE // 4)])
def test_a_process_that_has_grown_much_does_not_wait(size: int, much: int) -> None:
    process = Process(size)
    collector = process.collector()
    gone = old_cycle(collector)
    process.size += much
    collector.tick(10.0)
    assert gone() is not None
    process.size += 1
    collector.tick(10.25)
    assert gone() is None


def test_growth_that_is_no_garbage_is_not_searched_again() -> None:
    process = Process()
    collector = process.collector()
    process.size += MUCH + 1
    collector.tick(10.0)
    gone = old_cycle(collector)
    for quarter in range(100):
        collector.tick(20.0 + quarter / 4)
    assert gone() is not None, "the process is as large as after the last search"


def test_searches_of_all_objects_leave_most_of_the_time_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 0.5)  # each takes half a second
    collector = process.collector()
    gone = old_cycle(collector)
    process.size += 10 * MUCH
    collector.tick(9.75)
    assert gone() is not None
    collector.tick(10.0)
    assert gone() is None


def test_the_search_after_a_reload_waits_for_no_minute() -> None:
    collector = Process(serving=False).collector()
    gone = old_cycle(collector)
    collector.note_reload()
    collector.tick(2.0)
    assert gone() is None


def test_a_long_search_after_a_reload_waits_for_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * 0.5)  # each takes half a second
    process = Process(serving=False)
    collector = process.collector()
    gone = old_cycle(collector)
    collector.note_reload()
    for quarter in range(34):
        collector.tick(1.25 + quarter / 4)
        assert gone() is not None
    collector.tick(12.0)
    assert gone() is None


@pytest.mark.parametrize("reloaded", [False, True])
def test_the_configuration_is_searched_neither_after_growth_nor_after_quiet(*, reloaded: bool) -> None:
    """20,000 routes are a million objects, and a search of them stops every client for a second."""
    process = Process()
    configuration: list[object] = [[number] for number in range(300_000)]
    collector = process.collector()
    if reloaded:
        configuration += [[number] for number in range(300_000)]
        collector.note_reload()
    searched: list[float] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            searched.append(time.thread_time() if phase == "start" else time.thread_time() - searched.pop())

    gc.callbacks.append(watch)
    try:
        gone = old_cycle(collector)
        process.size += 10 * MUCH
        collector.tick(2.0)
        assert gone() is None
    finally:
        gc.callbacks.remove(watch)
    assert configuration and searched and max(searched) < 0.02


# ---- the process


def test_the_size_of_the_process_is_that_of_its_memory() -> None:
    before = resident_or_peak()
    held = bytearray(32 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    grown = resident_or_peak() - before
    assert 16 * MIB < grown < 64 * MIB
    del held
    return_free_memory()


@pytest.mark.parametrize("owns_process", [False, True])
async def test_an_application_sets_the_collector_only_in_its_own_process(tmp_path: Path, owns_process: bool) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"storage: {{database: 'sqlite:///{tmp_path}/gateway.db'}}\n")
    app = create_app(load_configuration(file, {}), owns_process=owns_process)
    frozen, before = gc.get_freeze_count(), gc.get_threshold()
    async with app.router.lifespan_context(app):
        assert (gc.get_freeze_count() > frozen, gc.get_threshold() != before) == (owns_process, owns_process)
