"""The minimum average rate of an upload, against traffic of every shape."""

import tracemalloc
from collections.abc import Callable

import pytest

from gateway.proxy.slow_peers import WINDOW, UploadRate

GRACE = 30.0
TICK = 0.25
Sent = Callable[[float], float]


def ended_at(sent: Sent, *, least: int = 512, grace: float = GRACE, until: float = 300.0) -> float | None:
    """The second at which an upload with `sent(t)` bytes after t seconds is too slow; None for never."""
    rate = UploadRate(least, grace, 0.0)
    for tick in range(1, int(until / TICK)):
        if rate.too_slow(tick * TICK, int(sent(tick * TICK))):
            return tick * TICK
    return None


def bursts(size: int, every: float) -> Sent:
    return lambda now: size * (1 + now // every)


TOO_SLOW: dict[str, Sent] = {
    "nothing": lambda _: 0,
    "a byte every three seconds": bursts(1, 3),
    "one per cent too little": lambda now: now * 507,
    "a burst every 29 s": bursts(512 * 15, 29),
    "much at first": lambda now: 10_000_000 + now,
    "much until the grace ends": lambda now: min(now, GRACE) * 100_000,
}
FAST_ENOUGH: dict[str, Sent] = {
    "the least rate": lambda now: now * 512,
    "a burst every 15 s": bursts(512 * 15, 15),
    "bursts of 1 MiB every 10 s": bursts(1 << 20, 10),
    "a fast one": lambda now: now * 1e6,
}


@pytest.mark.parametrize("sent", TOO_SLOW.values(), ids=TOO_SLOW)
def test_an_upload_below_the_rate_ends_one_window_after_the_grace(sent: Sent) -> None:
    ended = ended_at(sent)
    assert ended is not None
    assert GRACE + WINDOW <= ended <= GRACE + WINDOW + 17


@pytest.mark.parametrize("sent", FAST_ENOUGH.values(), ids=FAST_ENOUGH)
def test_an_upload_at_the_rate_never_ends(sent: Sent) -> None:
    assert ended_at(sent) is None


def test_an_upload_that_becomes_slow_ends_within_one_window() -> None:
    ended = ended_at(lambda now: min(now, 100) * 10_000)
    assert ended is not None
    assert 114 <= ended <= 117


def test_time_in_which_the_upstream_does_not_read_does_not_count() -> None:
    rate = UploadRate(512, GRACE, 0.0)
    now = 0.0
    for _ in range(4 * 40):
        now += TICK
        assert not rate.too_slow(now, int(now * 1000))
    for _ in range(4 * 600):
        now += TICK
        assert not rate.too_slow(now, 40_000, held_back=True)
    # The client resumes, and the window continues.
    for second in range(40):
        now += 1
        assert not rate.too_slow(now, 40_000 + second * 1000)


def test_an_upload_of_hours_takes_no_more_memory() -> None:
    rate = UploadRate(1, 0.0, 0.0)

    def follow(since: float, seconds: int) -> None:
        for tick in range(seconds * 4):
            rate.too_slow(since + tick * TICK, int(since * 1000) + tick * 1000)

    follow(0, 60)
    tracemalloc.start()
    follow(60, 7200)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 8192
