"""The cost of observability per request. Printed (`pytest -s`) and not asserted, because machines differ and are seldom
idle.

The targets: 1.2 µs with log and metrics, 0.4 µs with metrics alone.
"""

import time
from collections.abc import Callable

import pytest

from gateway.observability.observer import OnComplete
from gateway.samples import BUCKETS
from tests.observability.requests import Collected, finished

ROUNDS = 60
REQUESTS = 500
ROLES = frozenset({"user", "editor"})


def fastest(completed: OnComplete) -> float:
    """Microseconds per call: the fastest of many short rounds, including the loop."""

    request = finished(path=b"/orders/123456", user_id="018f3a5c-0000-7000-8000-000000000001", client="127.0.0.1")
    request.started = time.monotonic()
    request.forwarded_at = request.answered_at = request.started

    def run() -> float:
        started = time.perf_counter()
        for _ in range(REQUESTS):
            completed(request)
        return time.perf_counter() - started

    rounds: list[Callable[[], float]] = [run] * ROUNDS
    return min(run() for run in rounds) / REQUESTS * 1e6


@pytest.mark.parametrize("metrics", [True, False])
@pytest.mark.parametrize("access_log", ["json", "off", "text"])
def test_observing_a_request_is_measured(access_log: str, metrics: bool) -> None:
    log = Collected(access_log=access_log, metrics=metrics)
    cost = fastest(log.observer.completed)
    print(f"\naccess_log: {access_log:<5} metrics: {metrics!s:<6} {cost:.2f} µs for each request")
    assert log.text.count(b"\n") == (0 if access_log == "off" else ROUNDS * REQUESTS)
    assert sum(sum(counts[:BUCKETS]) for _, counts in log.observer.snapshot()) == (ROUNDS * REQUESTS if metrics else 0)
