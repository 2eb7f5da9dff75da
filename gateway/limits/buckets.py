"""The local buckets of one limit, one per client."""

from gateway.cache import TwoGenerationCache
from gateway.limits.quota import Quota


class Buckets:
    """Keeps at most `room` buckets.

    An empty bucket equals a missing one, and every bucket is empty after `per` seconds without a request, so dropping
    older ones loses nothing. Only if more clients than `room` arrive within that time are the least recently active
    ones reset.
    """

    __slots__ = ("_kept", "quota")

    def __init__(self, quota: Quota, room: int) -> None:
        self.quota = quota
        self._kept: TwoGenerationCache[str, tuple[float, float]] = TwoGenerationCache(room, lifetime=quota.per)

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
