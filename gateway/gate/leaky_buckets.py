"""Leaky buckets, equivalent to token buckets. `Quota` is a pure function, `Buckets` keeps the local levels of one
limit.

Requests fill the bucket. It holds as many requests as the limit names and leaks that many in the limit's period. An
idle client can send all of them at once, and then one whenever one has leaked out. In T seconds at most `requests + T *
requests / per` pass.
"""

from math import ceil
from typing import Final

from gateway.cache import TwoGenerationCache

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


class Buckets:
    """Keeps the buckets of at most `max_clients` clients.

    An empty bucket equals a missing one, and every bucket is empty after `per` seconds without a request, so dropping
    older ones loses nothing. Only if more clients arrive within that time are the least recently active ones reset.
    """

    __slots__ = ("_kept", "quota")

    def __init__(self, quota: Quota, max_clients: int) -> None:
        self.quota = quota
        self._kept: TwoGenerationCache[str, tuple[float, float]] = TwoGenerationCache(max_clients, lifetime=quota.per)

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, caller: str, now: float) -> float:
        """Count a request and return the new level of the client's bucket. A request over `quota.full` must be refused
        and is not counted. `now` is in seconds, always from the same clock."""
        kept = self._kept
        bucket = kept.get(caller)
        if bucket is None:
            kept.put(caller, (1.0, now), now)
            return 1.0
        quota = self.quota
        level = quota.with_one_more(bucket[0], bucket[1], now)
        if level <= quota.full:
            kept.young[caller] = (level, now)
        return level

    def look(self, caller: str, now: float) -> float:
        """The level of the bucket with one more request, without counting it."""
        bucket = self._kept.get(caller)
        return 1.0 if bucket is None else self.quota.with_one_more(bucket[0], bucket[1], now)

    def note(self, caller: str, level: float, now: float) -> None:
        """Set the level of a bucket, as counted by the shared store."""
        self._kept.put(caller, (level, now), now)
