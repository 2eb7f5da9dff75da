"""The circuit breaker: when an unresponsive store is tried again."""

import pytest

from gateway.storage.circuit_breaker import FAILURES, PAUSE, Breaker
from tests.support.databases import Clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def fail(breaker: Breaker, clock: Clock, times: int = 1) -> list[bool]:
    """Attempts that begin, take a quarter of a second and fail; returns which of them opened the breaker."""
    opened = []
    for _ in range(times):
        started = breaker.now()
        clock.now += 0.25
        opened.append(breaker.failed(started))
    return opened


def test_it_opens_after_some_failures_in_a_row_and_reports_it_once(breaker: Breaker, clock: Clock) -> None:
    assert fail(breaker, clock, FAILURES + 1) == [False] * (FAILURES - 1) + [True, False]
    assert not breaker.closed and not breaker.admits()


def test_fewer_failures_leave_it_closed(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker, clock, FAILURES - 1)
        breaker.succeeded(breaker.now())
    assert breaker.closed and breaker.admits()


def test_failures_of_a_burst_do_not_count_while_others_are_answered(breaker: Breaker, clock: Clock) -> None:
    started = breaker.now()
    clock.now += 0.2
    breaker.succeeded(breaker.now())
    clock.now += 0.05
    assert [breaker.failed(started) for _ in range(100)] == [False] * 100
    assert breaker.closed


def test_while_open_one_in_each_pause_may_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, FAILURES)
    clock.now += PAUSE - 0.01
    assert not breaker.admits()
    clock.now += 0.02
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    fail(breaker, clock)
    assert not breaker.admits()
    clock.now += PAUSE
    assert breaker.admits()


def test_one_answer_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, FAILURES)
    breaker.succeeded(breaker.now())
    assert breaker.closed and [breaker.admits() for _ in range(3)] == [True] * 3
    assert fail(breaker, clock, FAILURES - 1) == [False] * (FAILURES - 1)
