"""A token bucket as a pure function, told from its other side: requests fill the bucket, and it leaks.

A bucket holds as many requests as the limit names and leaks that many in the time that it names. So a caller who was
quiet may send all of them at once, and then one as often as one has leaked out. In no time span of T seconds do more
than `requests + T * requests / per` pass.
"""

from math import ceil
from typing import Final

# What floating point may be off by: so little of a request's share of the time, it may come too early.
SLACK: Final = 1e-9


class Quota:
    """`requests` in `per` seconds; `rate` is how many of them leak out in a second."""

    __slots__ = ("full", "per", "rate", "requests")

    def __init__(self, requests: int, per: float) -> None:
        self.requests = requests
        self.per = per
        self.rate = requests / per
        self.full = requests + SLACK

    def with_one_more(self, level: float, at: float, now: float) -> float:
        """How full a bucket is with one more request in it, which passes if that is not over `full`. `level` is how
        full it was at `at` seconds. A clock that was set back makes nobody wait for it: nothing leaks meanwhile."""
        if now > at:
            level -= (now - at) * self.rate
        return level + 1.0 if level > 0.0 else 1.0

    def remaining(self, level: float) -> int:
        """How many requests would pass now, where `level` has the last one in it."""
        return max(0, int(self.full - level))

    def wait(self, level: float) -> int:
        """Whole seconds until one more would pass than pass now, at least one. `level` has the last request in it,
        also where that did not pass."""
        missing = level - self.full if level > self.full else 1.0 - (self.full - level) % 1.0
        return max(1, ceil(missing / self.rate))
