"""Searching for garbage keeps no caller waiting, and finds it all the same."""

import gc
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.collecting import GROWTH, PAUSE, QUIET, STEP, Collector
from gateway.policy.loading import load_configuration


class Knot:
    """Something that only a search finds: it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.collect()


class Requests:
    """How many there have been, as the collector asks."""

    def __init__(self) -> None:
        self._count = 0

    def begin(self) -> None:
        self._count += 1

    def count(self) -> int:
        self._count += 1
        return self._count


def grow_old(collector: Collector, now: float) -> list[object]:
    """Make objects that survive a step, and let a tick see them."""
    kept: list[object] = [[] for _ in range(3 * STEP)]
    collector.tick(now)
    return kept


def busy() -> Collector:
    """One that finds somebody being served whenever it looks."""
    return Collector(lambda: True, Requests().count)


def test_what_survives_is_put_out_of_reach_at_the_next_tick() -> None:
    collector = busy()
    collector.settle(0.0)
    before = gc.get_freeze_count()
    kept = grow_old(collector, 1.0)
    assert gc.get_freeze_count() - before > len(kept) // 2
    assert gc.get_count()[1] == 0


def test_a_hundred_thousand_records_are_looked_through_in_small_steps() -> None:
    longest, begun, steps = 0.0, 0.0, 0

    def watch(phase: str, info: dict[str, int]) -> None:
        nonlocal longest, begun, steps
        if phase == "start":
            begun = time.thread_time()
        else:
            longest, steps = max(longest, time.thread_time() - begun), steps + 1
            assert info["generation"] == 0

    collector = busy()
    collector.settle(0.0)
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


def test_garbage_that_has_grown_old_is_found_while_nobody_is_served() -> None:
    served = True
    collector = Collector(lambda: served, Requests().count)
    collector.settle(0.0)
    knot = Knot()
    gone = weakref.ref(knot)
    kept = grow_old(collector, 1.0)
    del knot
    for now in (2.0, PAUSE + 1, PAUSE + 5):
        collector.tick(now)
        assert gone() is not None, "somebody is being served, or it is too soon"
    served = False
    collector.tick(PAUSE + 10)
    assert gone() is None
    assert kept


def test_a_moment_between_two_requests_is_not_used_for_it() -> None:
    """A full search takes 40 ms and more, and the next request is due in less than one."""
    requests = Requests()
    collector = Collector(lambda: False, requests.count)
    collector.settle(0.0)
    knot = Knot()
    gone = weakref.ref(knot)
    kept = grow_old(collector, 1.0)
    del knot
    for quarter in range(20):
        requests.begin()
        collector.tick(PAUSE + quarter / 4)
        assert gone() is not None, "nobody is being served at this moment, but there was a request since the last tick"
    collector.tick(PAUSE + 5.0)
    assert gone() is not None, "too soon after the last request"
    collector.tick(PAUSE + 5.0 + QUIET)
    assert gone() is None
    assert kept


def test_it_is_found_anyway_when_the_process_has_become_twice_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = 3 * GROWTH
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: blocks)
    collector = busy()
    collector.settle(0.0)
    knot = Knot()
    gone = weakref.ref(knot)
    kept = grow_old(collector, 1.0)
    del knot
    blocks *= 2
    collector.tick(PAUSE * 2)
    assert gone() is not None
    blocks += 1
    collector.tick(PAUSE * 3)
    assert gone() is None
    assert kept


def test_after_a_reload_it_is_not_waited_for_a_minute() -> None:
    collector = Collector(lambda: False, Requests().count)
    collector.settle(0.0)
    knot = Knot()
    gone = weakref.ref(knot)
    kept = grow_old(collector, 1.0)
    del knot
    collector.much_is_old()
    collector.tick(2.0)
    assert gone() is None
    assert kept


@pytest.mark.parametrize("owns_process", [False, True])
async def test_an_application_says_when_to_search_only_where_the_process_is_its_own(
    tmp_path: Path, owns_process: bool
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"storage: {{database: 'sqlite:///{tmp_path}/gateway.db'}}\n")
    app = create_app(load_configuration(file, {}), owns_process=owns_process)
    before = gc.get_threshold()
    async with app.router.lifespan_context(app):
        assert (gc.get_freeze_count() > 0, gc.get_threshold() != before) == (owns_process, owns_process)
