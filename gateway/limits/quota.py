"""A leaky bucket as a pure function, equivalent to a token bucket.

Requests fill the bucket. It holds as many requests as the limit names and leaks that many in the limit's period. An
idle client can send all of them at once, and then one whenever one has leaked out. In T seconds at most `requests + T *
requests / per` pass.
"""

from math import ceil
from typing import Final

# Tolerance for floating point errors, as a fraction of one request.
SLACK: Final = 1e-9


class Quota:
    """`requests` in `per` seconds. `rate` is the number of requests that leak out per second."""

    __slots__ = ("full", "per", "rate", "requests")

    def __init__(self, requests: int, per: float) -> None:
        self.requests = requests
        self.per = per
        self.rate = requests / per
        self.full = requests + SLACK

    def with_one_more(self, level: float, at: float, now: float) -> float:
        """The level with one more request, which passes if the level is at most `full`. `level` was the level at time
        `at`. If the clock was set back, nothing leaks and no client waits longer."""
        if now > at:
            level -= (now - at) * self.rate
        return level + 1.0 if level > 0.0 else 1.0

    def remaining(self, level: float) -> int:
        """How many more requests would pass now. `level` includes the last one."""
        return max(0, int(self.full - level))

    def wait(self, level: float) -> int:
        """Whole seconds, at least one, until another request can pass. `level` includes the last request, even if it
        was refused."""
        missing = level - self.full if level > self.full else 1.0 - (self.full - level) % 1.0
        return max(1, ceil(missing / self.rate))
