"""The buckets of one limit, one for each caller, in this process."""

from gateway.identity.generations import Generations
from gateway.limits.quota import Quota


class Buckets:
    """At most `room` callers are remembered. An empty bucket is as good as none, and each is empty after `per` seconds
    without a request: what is older is dropped without loss. Only if more callers than that come in this time do those
    who were quiet longest start anew."""

    __slots__ = ("_kept", "quota")

    def __init__(self, quota: Quota, room: int) -> None:
        self.quota = quota
        self._kept: Generations[str, tuple[float, float]] = Generations(room, lifetime=quota.per)

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, caller: str, now: float) -> float:
        """Count a request: how full the caller's bucket is with it. Over `quota.full` it must not pass, and is not
        counted. `now` is in seconds, on any one clock."""
        kept = self._kept
        bucket = kept.young.get(caller) or kept.aged(caller)
        if bucket is None:
            kept.put(caller, (1.0, now), now)
            return 1.0
        quota = self.quota
        level = quota.with_one_more(bucket[0], bucket[1], now)
        if level <= quota.full:
            kept.young[caller] = (level, now)
        return level

    def look(self, caller: str, now: float) -> float:
        """How full the bucket would be with one more request; none is counted."""
        bucket = self._kept.young.get(caller) or self._kept.aged(caller)
        return 1.0 if bucket is None else self.quota.with_one_more(bucket[0], bucket[1], now)

    def note(self, caller: str, level: float, now: float) -> None:
        """How full the bucket is, as somebody else has counted."""
        self._kept.put(caller, (level, now), now)
