"""Failed attempts per counter: the allowance, and the counts of this process.

A count begins with a failure and expires `window` seconds later. The last allowed failure turns it into a ban that
expires `ban` seconds later. Attempts refused during a ban are not counted, so a ban ends at the announced time.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from gateway.cache import TwoGenerationCache

MAX_COUNTS: Final = 65536  # Counts kept per process. A flood of invented names evicts the oldest ones.


class Allowance(NamedTuple):
    """`failures` within `window` seconds cause a ban of `ban` seconds."""

    failures: int
    window: float
    ban: float


class Counter(NamedTuple):
    """One counter. `key` identifies it; `owner` groups counters that are reset together."""

    owner: str
    key: str
    allowance: Allowance


class SharedCount(NamedTuple):
    """The state of a count: `failures`, expiring in `remaining` seconds. `reset` identifies the last reset (0: none);
    `pardoned` means that the reset voids the reported failures and all earlier local knowledge."""

    failures: int
    remaining: float
    pardoned: bool = False
    reset: int = 0


class UnreportedCounts(NamedTuple):
    """Failures that the shared store has not counted yet, the first of them `age` seconds ago; 0 failures only query
    the state.

    `ban` is the duration in seconds if these failures are the last allowed ones. `reset` is the last known reset, None
    if the store has not been queried since the first failure.
    """

    counter: Counter
    failures: int
    age: float
    ban: float
    reset: int | None = None


class SharedFailures(Protocol):
    """The counts that all replicas share."""

    @property
    def available(self) -> bool:
        """Whether a call is likely to succeed."""

    async def report(self, reports: Sequence[UnreportedCounts]) -> list[SharedCount]:
        """Count these failures and return the state of each counter. Raises StorageUnavailable within 250 ms."""

    async def forget(self, counter: Counter) -> None:
        """Reset a counter. Raises StorageUnavailable."""

    async def reset(self, owners: Sequence[str], *, lifetime: float) -> None:
        """Reset all counters of these owners. No earlier count lives longer than `lifetime` seconds from now. Raises
        StorageUnavailable."""


class _Tally:
    __slots__ = ("began", "count", "ends", "owed", "reset")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.began = now
        self.ends = now
        self.owed = 0  # the part of the count not yet reported to the shared store
        self.reset: int | None = None


class FailedAttempts:
    """The counts of this process: all counts without a shared store, else known shared counts plus unreported failures.

    Times are in seconds, always from the same clock.
    """

    def __init__(self, *, lifetime: float, max_counts: int = MAX_COUNTS) -> None:
        self._kept: TwoGenerationCache[str, _Tally] = TwoGenerationCache(max_counts, lifetime=lifetime)

    def __len__(self) -> int:
        return len(self._kept)

    def wait(self, counter: Counter, now: float) -> float:
        """Seconds until the next attempt is allowed, 0 if it is allowed now."""
        tally = self._living(counter.key, now)
        banned = tally is not None and tally.count >= counter.allowance.failures
        return tally.ends - now if tally is not None and banned else 0.0

    def failed(self, counter: Counter, now: float) -> None:
        """Count a failure."""
        allowance = counter.allowance
        tally = self._living(counter.key, now) or _Tally(now)
        if tally.count == 0:
            tally.ends = now + allowance.window
        tally.count += 1
        tally.owed += 1
        if tally.count == allowance.failures:
            tally.ends = now + allowance.ban
        self._kept.put(counter.key, tally, now)

    def take_debt(self, counter: Counter, now: float) -> UnreportedCounts:
        """Take the unreported failures. They count as reported unless `give_back` returns them."""
        tally = self._living(counter.key, now)
        if tally is None:
            return UnreportedCounts(counter, 0, 0.0, counter.allowance.ban)
        owed, tally.owed = tally.owed, 0
        banned = tally.count >= counter.allowance.failures
        ban = tally.ends - now if banned else counter.allowance.ban
        return UnreportedCounts(counter, owed, now - tally.began, ban, tally.reset)

    def give_back(self, report: UnreportedCounts, now: float) -> None:
        """Return unreported failures after the shared store failed."""
        tally = self._living(report.counter.key, now)
        if tally is not None:
            tally.owed += report.failures

    def learn(self, counter: Counter, standing: SharedCount, now: float) -> None:
        """Apply the state from the shared store, plus unreported failures. A local ban that the store has lost
        (restart, failed report) stays in effect and is reported again."""
        tally = self._living(counter.key, now) or _Tally(now)
        allowed = counter.allowance.failures
        tally.reset = standing.reset
        if not standing.pardoned and standing.failures < allowed <= tally.count:
            tally.owed = tally.count - standing.failures
            return
        tally.count = standing.failures + tally.owed
        if tally.count == 0:
            self._kept.drop(counter.key)
            return
        if standing.failures:
            tally.ends = now + standing.remaining
        self._kept.put(counter.key, tally, now)

    def forget(self, counter: Counter) -> None:
        """Reset a count."""
        self._kept.drop(counter.key)

    def _living(self, key: str, now: float) -> _Tally | None:
        tally = self._kept.get(key)
        return tally if tally is not None and now < tally.ends else None
